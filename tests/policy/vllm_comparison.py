"""What test_vllm_engine.py runs in vLLM's environment: `python -m tests.policy.vllm_comparison OUT TASK BASE ...`.

Figures go to the file OUT: vLLM writes to standard output as it pleases.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from rluf_assets.distributed import join
from rluf_assets.errors import TrainingError
from rluf_assets.policy.base import save_policy
from rluf_assets.policy.config import EvaluationConfig, OptimisationConfig, VllmConfig
from rluf_assets.policy.engine import Completion, TransformersEngine
from rluf_assets.policy.vllm_engine import VLLMEngine

NEW_TOKENS = 32


def prompts_of(file: Path) -> list[Any]:
    return pl.read_parquet(file).filter(pl.col("split") == "optimisation")["prompt"].to_list()


def other_policy(base: Path, out: Path) -> Path:
    """Weights far from the base's: all of them scaled, mixed with noise of their own size."""
    engine = TransformersEngine(base)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in engine.model.parameters():
            parameter += 0.5 * parameter.std() * torch.randn_like(parameter)
    out.mkdir()
    save_policy(engine.model, engine.encoder.tokenizer, out)
    return out


def logprob_error(engine: TransformersEngine, prompts: list[Any], rows: list[list[Completion]]) -> float:
    """Largest difference of summed log-probabilities."""
    flat = [(p, c) for p, row in zip(prompts, rows, strict=True) for c in row]
    own = engine.logprobs([p for p, _ in flat], [c for _, c in flat], max_new_tokens=NEW_TOKENS)
    return float(np.abs(own - np.array([c.logprob for _, c in flat])).max())


def greedy(base: Path, file: Path, scratch: Path) -> dict[str, Any]:
    prompts = prompts_of(file)
    other = other_policy(base, scratch / "other")
    settings: dict[str, Any] = {"n": 1, "max_new_tokens": NEW_TOKENS, "temperature": 0.0, "seed": 0}
    vllm = VLLMEngine(base, VllmConfig(dtype="float32"))
    first = vllm.load(base)
    one, two = TransformersEngine(base), TransformersEngine(other)
    wanted, found = one.sample(prompts, **settings), vllm.sample(prompts, **settings)
    settings["temperature"], settings["n"] = 1.0, 3
    drawn, again = vllm.sample(prompts, **settings), vllm.sample(prompts, **settings)
    differently = vllm.sample(prompts, **{**settings, "seed": 1})
    error = logprob_error(one, prompts, drawn)
    ends = [c.finished == (c.token_ids[-1] in one.tokens.ends) for row in drawn for c in row]
    vllm.load(other)
    settings["temperature"], settings["n"] = 0.0, 1
    wanted_after, found_after = two.sample(prompts, **settings), vllm.sample(prompts, **settings)
    error_after = logprob_error(two, prompts, vllm.sample(prompts, **{**settings, "temperature": 1.0, "n": 3}))
    stale = ""
    try:
        first.sample(prompts, **settings)
    except TrainingError as refused:
        stale = str(refused)
    return {
        "prompts": len(prompts),
        "greedy_equal": sum(a[0].text == b[0].text for a, b in zip(wanted, found, strict=True)),
        "greedy_equal_after_reload": sum(
            a[0].text == b[0].text for a, b in zip(wanted_after, found_after, strict=True)
        ),
        "changed_by_reload": sum(a[0].text != b[0].text for a, b in zip(found, found_after, strict=True)),
        "logprob_error": error,
        "logprob_error_after_reload": error_after,
        "same_seed_same_samples": [[c.text for c in r] for r in drawn] == [[c.text for c in r] for r in again],
        "other_seed_other_samples": [[c.text for c in r] for r in drawn] != [[c.text for c in r] for r in differently],
        "ended": float(np.mean([c.finished for row in drawn for c in row])),
        "ends_agree": all(ends),
        "stale_version_error": stale,
    }


def memory(base: Path, file: Path, scratch: Path) -> dict[str, Any]:
    """Weights handed over in memory, far from those before, beside the same ones read from a folder."""
    prompts = prompts_of(file)
    other = other_policy(base, scratch / "other")
    settings: dict[str, Any] = {"n": 1, "max_new_tokens": NEW_TOKENS, "temperature": 0.0, "seed": 0}
    vllm = VLLMEngine(base, VllmConfig(dtype="float32"), prompts=prompts, max_new_tokens=NEW_TOKENS)
    first, before = vllm.load(base), vllm.sample(prompts, **settings)
    policy = TransformersEngine(other)
    taken = vllm.take(policy.model.named_parameters())
    found, wanted = taken.sample(prompts, **settings), policy.sample(prompts, **settings)
    drawn = taken.sample(prompts, **{**settings, "temperature": 1.0, "n": 3})
    again = vllm.take(policy.model.named_parameters()).version == taken.version
    with torch.no_grad():
        next(policy.model.parameters())[0, 0] += 1e-3  # less than any step of an optimiser
    moved = vllm.take(policy.model.named_parameters())
    refused = []
    for attempt in (
        lambda: taken.sample(prompts, **settings),
        lambda: first.sample(prompts, **settings),
        lambda: vllm.take((f"other.{name}", values) for name, values in policy.model.named_parameters()),
    ):
        try:
            attempt()
        except (TrainingError, KeyError, ValueError) as error:
            refused.append(str(error))
    return {
        "prompts": len(prompts),
        "equal": sum(a[0].text == b[0].text for a, b in zip(wanted, found, strict=True)),
        "changed": sum(a[0].text != b[0].text for a, b in zip(before, found, strict=True)),
        "logprob_error": logprob_error(policy, prompts, drawn),
        "same_weights_same_version": again,
        "moved_weights_other_version": moved.version != taken.version,
        "refused": refused,
        "room": vllm.llm.llm_engine.model_config.max_model_len,
        "longest": max(map(len, policy.encoder.encode(prompts, policy.max_positions - NEW_TOKENS))) + NEW_TOKENS,
        "positions": policy.max_positions,
    }


def token_errors(vllm: VLLMEngine, exact: TransformersEngine, prompts: list[Any]) -> np.ndarray:
    """Absolute differences of the log-probabilities of every token that vLLM drew."""
    from vllm import SamplingParams

    ids = exact.encoder.encode(prompts, exact.max_positions - NEW_TOKENS)
    params = SamplingParams(
        max_tokens=NEW_TOKENS, logprobs=0, seed=3, detokenize=False, stop_token_ids=sorted(vllm.tokens.ends)
    )
    errors = []
    for row, output in zip(ids, vllm.generate(ids, params), strict=True):
        drawn = output.outputs[0]
        said = [step[token].logprob for step, token in zip(drawn.logprobs, drawn.token_ids, strict=True)]
        with torch.inference_mode():
            own = exact.token_logprobs([(row, list(drawn.token_ids))])[0].numpy()
        errors.append(np.abs(own - np.array(said)))
    return np.concatenate(errors)


def bfloat16(base: Path, file: Path, scratch: Path) -> dict[str, Any]:
    prompts = prompts_of(file)
    other = other_policy(base, scratch / "other")
    vllm = VLLMEngine(base, VllmConfig(dtype="bfloat16"))
    found = {}
    for when, folder in (("before", base), ("after", other)):
        vllm.load(folder)
        errors = token_errors(vllm, TransformersEngine(folder), prompts)
        found |= {f"mean_error_{when}": float(errors.mean()), f"max_error_{when}": float(errors.max())}
    return found


def loop(base: Path, file: Path, scratch: Path, *rewards: Path, tensor_parallel: int = 1) -> dict[str, Any]:
    from rluf_assets.policy.loop import optimise_policy
    from rluf_assets.rewards.scoring import RewardModel

    scorers = dict(zip(("helpfulness", "love"), map(RewardModel.load, rewards), strict=True))
    config = OptimisationConfig(
        engine="vllm",
        vllm=VllmConfig(dtype="float32", tensor_parallel=tensor_parallel),
        weights={"helpfulness": 0.7, "love": 0.3},
        iterations=3,
        prompts_per_iteration=16,
        max_new_tokens=NEW_TOKENS,
        updates_per_iteration=2,
        judges=("repetition",),
        learning_rate=3e-3,
        max_nan_share=0.1,
    )
    out = scratch / "run"
    out.mkdir(exist_ok=True)
    rows = optimise_policy(base, file, scorers, config, out=out).iterations.to_dicts()
    by_folder = (out / "checkpoints" / "sampled").exists()
    return {
        "iterations": len(rows),
        "by_folder": by_folder,
        **{key: [row[key] for row in rows] for key in ("learned", "kl_mean", "reward")},
    }


def evaluation(base: Path, file: Path, scratch: Path, *rewards: Path) -> dict[str, Any]:
    from rluf_assets.policy.candidate import evaluate_candidate
    from rluf_assets.rewards.scoring import RewardModel

    scorers = {"love": RewardModel.load(rewards[-1])}
    replies, scores = {}, {}
    for engine in ("transformers", "vllm"):
        config = EvaluationConfig(
            engine=engine, vllm=VllmConfig(dtype="float32"), temperature=0, max_new_tokens=NEW_TOKENS
        )
        replies[engine], scores[engine] = evaluate_candidate(base, file, scorers, config, seed=0)
    ours, theirs = replies["transformers"], replies["vllm"]
    return {
        "replies": len(ours),
        "equal": int((ours["completion"] == theirs["completion"]).sum()),
        "same_verdicts": ours.select("^judge_.*$", "finished").equals(theirs.select("^judge_.*$", "finished")),
        "logit_difference": float((scores["transformers"]["logit"] - scores["vllm"]["logit"]).abs().max()),
    }


if __name__ == "__main__":
    out, task, *folders = sys.argv[1:]
    join()
    tasks = {"greedy": greedy, "memory": memory, "bfloat16": bfloat16, "loop": loop, "evaluation": evaluation}
    # In several processes, one copy of the policy for each or between them.
    tasks |= {f"loop_{shared}": partial(loop, tensor_parallel=shared) for shared in (1, 2)}
    made = tasks[task](*map(Path, folders))
    if os.environ.get("RANK", "0") == "0":
        Path(out).write_text(json.dumps(made))
