"""One candidate offline: its replies to the fixed evaluation prompts, judged and scored by all reward models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import polars as pl

from rluf_assets.chat import Message
from rluf_assets.distributed import ALONE, Ranks, device
from rluf_assets.errors import DataError
from rluf_assets.policy.config import EvaluationConfig
from rluf_assets.policy.engine import TransformersEngine
from rluf_assets.policy.judges import JUDGES, judge_all
from rluf_assets.policy.phases import score_rows
from rluf_assets.policy.sampler import Samples, check_tensor_parallel

MEMBER_COLUMNS = ("member_live_probability", "disagreement")


class EnsembleScorer(Protocol):
    """What a reward model offers (rewards.scoring.RewardModel): scores, and those of its ensemble's members."""

    def score(
        self, prompts: Sequence[Sequence[Message]], completions: Sequence[str], *, members: bool = False
    ) -> pl.DataFrame: ...


def evaluate_candidate(
    policy: Path,
    prompts_file: Path,
    scorers: Mapping[str, EnsembleScorer],
    config: EvaluationConfig,
    *,
    seed: int,
    report: Callable[[int, int, str], None] = lambda done, total, what: None,
    ranks: Ranks = ALONE,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Completions (one row each, with a column `judge_<name>` per rule judge) and scores (one per objective and reply;
    where the reward model has an ensemble, with its members' live probabilities and how much they disagree).

    The same seed gives every candidate the same random numbers for the same prompt. Sampled and scored in shares over
    `ranks`. Raises DataError without prompts.
    """
    prompts = pl.read_parquet(prompts_file).filter(pl.col("split") == "evaluation").head(config.max_prompts or 2**31)
    if prompts.is_empty():
        raise DataError(f"{prompts_file}: no prompts of split 'evaluation'. Materialise evaluation_prompts again.")
    engine = _engine(policy, config, ranks, prompts["prompt"].to_list())
    steps = 2 + len(scorers)
    draw = partial(
        engine.sample,
        prompts["prompt"].to_list(),
        n=config.completions_per_prompt,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=seed,
    )
    sampled = ranks.spread(len(prompts), lambda share: draw(only=share), together=engine.together)
    report(1, steps, "sampled")
    if "weight" not in prompts.columns:
        prompts = prompts.with_columns(weight=pl.lit(1.0))
    completions = (
        prompts.select("prompt_id", "use_case", pl.col("^turn_index$"), "weight", "prompt")
        .with_columns(
            pl.Series("completion", [[c.text for c in row] for row in sampled]),
            pl.Series("finished", [[c.finished for c in row] for row in sampled]),
            pl.Series("judge_control_token", [[not c.control for c in row] for row in sampled]),
            completion_id=pl.int_ranges(0, config.completions_per_prompt, dtype=pl.Int32),
        )
        .explode("completion", "finished", "judge_control_token", "completion_id")
    )
    completions = _judged(completions).select(
        "prompt_id",
        "completion_id",
        "use_case",
        pl.col("^turn_index$"),
        "weight",
        "prompt",
        "completion",
        "finished",
        pl.col("^judge_.*$"),
    )
    report(2, steps, "judged")
    scores = []
    for objective, scorer in scorers.items():
        found = score_rows(scorer, completions, ranks, members=True)
        scores.append(
            pl.concat(
                [
                    completions.select("prompt_id", "completion_id", "use_case", "weight", objective=pl.lit(objective)),
                    found.select(pl.col("logit", "probability", "live_probability").cast(pl.Float64), *MEMBER_COLUMNS),
                ],
                how="horizontal",
            )
        )
        report(2 + len(scores), steps, f"scored {objective}")
    return completions, pl.concat(scores)


def _engine(policy: Path, config: EvaluationConfig, ranks: Ranks, prompts: Sequence[Sequence[Message]]) -> Samples:
    if config.engine == "vllm":
        from rluf_assets.policy.vllm_engine import VLLMEngine

        check_tensor_parallel(config.vllm, ranks)
        return VLLMEngine(policy, config.vllm, ranks=ranks.size, prompts=prompts, max_new_tokens=config.max_new_tokens)
    return TransformersEngine(policy, device=device(), batch_tokens=config.sampling_tokens)


def _judged(completions: pl.DataFrame) -> pl.DataFrame:
    names = tuple(JUDGES)
    rows = completions.select("prompt", "completion", "finished").iter_rows()
    verdicts = [
        [judged[name].passed and (finished or name != "unfinished") for name in names]
        for prompt, completion, finished in rows
        for judged in [judge_all(prompt, completion, names)]
    ]
    columns = zip(*verdicts, strict=True)
    return completions.with_columns(
        pl.Series(f"judge_{name}", list(values), dtype=pl.Boolean) for name, values in zip(names, columns, strict=True)
    )
