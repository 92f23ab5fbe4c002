"""CRRAFT beside TRL's DPO, KTO and GRPO on the same artifacts: `python -m benchmarks.rivals [--home HOMES] [--seeds 0]`.

The simulated production, reward models and candidates of a seed are those of benchmarks.siblings, made here or where its
`--home HOMES` left them; TRL is the extra `bench`. All start from the base policy and take 40 optimiser steps at CRRAFT's
learning rate, TRL's defaults otherwise. DPO and KTO learn from the replies that CRRAFT sampled, scored and judged: of each
four the best that passed against the worst; what passed and beat the baseline reply against all else. GRPO samples four
replies to 96 prompts ten times, as CRRAFT does, and maximises the same reward; it knows no judges.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.siblings import NEW_TOKENS, SETTINGS, Yardstick, make_home, page
from rluf_assets.lake import Lake
from rluf_assets.policy.batch import BASELINE

NAMES = ("none", "crraft", "dpo", "kto", "grpo")
LOOP: dict[str, Any] = SETTINGS["crraft_policy"]  # type: ignore[assignment]
STEPS = 4 * LOOP["iterations"]


def sampled_replies(lake: Lake) -> pl.DataFrame:
    """Every reply of CRRAFT's run: iteration, prompt, completion, reward, whether it passed, the baseline's reward."""
    phases = Path(lake.current("crraft_policy", "crraft").path("phases"))
    frames = [
        pl.read_parquet(file).with_columns(iteration=i)
        for i, file in enumerate(sorted(phases.glob("0*/select.parquet")))
    ]
    rows = pl.concat(frames, how="diagonal").filter(pl.col("reward").is_finite())
    base = rows.filter(pl.col("completion_id") == BASELINE).select("iteration", "prompt_id", baseline="reward")
    return rows.filter(pl.col("completion_id") != BASELINE).join(base, on=["iteration", "prompt_id"])


def pairs(replies: pl.DataFrame) -> list[dict[str, Any]]:
    """DPO's rows: of each prompt's replies the best that passed, and the worst."""
    rows = []
    for _, group in replies.group_by("iteration", "prompt_id", maintain_order=True):
        passed, worst = group.filter("passed").sort("reward"), group.sort("passed", "reward")
        if passed.height and passed["completion"][-1] != worst["completion"][0]:
            prompt, won, lost = group["prompt"].to_list()[0], passed["completion"][-1], worst["completion"][0]
            rows.append({"prompt": prompt, "chosen": _said(won), "rejected": _said(lost)})
    return rows


def labelled(replies: pl.DataFrame) -> list[dict[str, Any]]:
    """KTO's rows: every reply, desirable if it passed and beat the baseline reply."""
    columns = replies.select("prompt", "completion", pl.col("passed") & (pl.col("reward") > pl.col("baseline")))
    return [{"prompt": p, "completion": _said(c), "label": label} for p, c, label in columns.iter_rows()]


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def train(name: str, home: Path, yardstick: Yardstick, out: Path, steps: int) -> float:
    """Train one rival and save it; seconds of training, GRPO's sampling included."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer

    lake = Lake(str(home / "lake"))
    base = lake.current("base_policy").uri
    common: dict[str, Any] = {
        "output_dir": str(out / "trainer"), "max_steps": steps, "learning_rate": LOOP["learning_rate"], "seed": yardstick.seed,
        "bf16": False, "use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_steps": steps,
        "gradient_checkpointing": False,
    }  # fmt: skip
    models = {
        "model": AutoModelForCausalLM.from_pretrained(base),
        "processing_class": AutoTokenizer.from_pretrained(base),
    }
    if name == "grpo":
        prompts = pl.read_parquet(lake.current("evaluation_prompts").path("prompts.parquet"))
        asked = prompts.filter(pl.col("split") == "optimisation")["prompt"].to_list()

        def reward(prompts: list[Any], completions: list[Any], **_: object) -> list[float]:
            return [float(r) for r in yardstick.rewards(prompts, [said[0]["content"] for said in completions])]

        config = GRPOConfig(
            **common,
            per_device_train_batch_size=LOOP["prompts_per_iteration"],
            steps_per_generation=4,
            num_generations=4,
            max_completion_length=NEW_TOKENS,
        )
        trainer: Any = GRPOTrainer(
            **models, reward_funcs=reward, train_dataset=Dataset.from_list([{"prompt": p} for p in asked]), args=config
        )
    else:
        replies = sampled_replies(lake)
        rows = pairs(replies) if name == "dpo" else labelled(replies)
        batch = max(1, len(rows) // STEPS)
        make, settings = (DPOTrainer, DPOConfig) if name == "dpo" else (KTOTrainer, KTOConfig)
        args = settings(**common, per_device_train_batch_size=batch)
        trainer = make(**models, args=args, train_dataset=Dataset.from_list(rows))
    begin = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begin
    trainer.save_model(str(out / name))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="the folder that benchmarks.siblings kept its homes in")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer only to see that it runs")
    parser.add_argument("--contexts", type=int, default=1_500)
    given = parser.parse_args()
    if importlib.util.find_spec("trl") is None:
        print("trl is not installed: pip install 'rluf[bench]'")
        return
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in given.seeds:
            home = make_home(given.home or Path(temporary), seed)
            yardstick = Yardstick.of(home, seed, given.contexts)
            figures = {name: yardstick.read_candidate(name) for name in ("none", "crraft")}
            for name in ("dpo", "kto", "grpo"):
                out = Path(temporary) / f"trl-{seed}"
                seconds = train(name, home, yardstick, out, given.steps)
                figures[name] = yardstick.read(str(out / name), seconds)
            found.append(figures)
            print(f"\nseed {seed}\n\n{page(found[-1:], NAMES)}", flush=True)
    print(f"\n{len(found)} seeds\n\n{page(found, NAMES)}")


if __name__ == "__main__":
    main()
