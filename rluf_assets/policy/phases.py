"""The first phases of an iteration, each a frame published as one Parquet file: sample, score, judge.

One row per reply, `completion_id` 0..N-1 (-1: the reference policy's reply). Files are written beside their place and
renamed into it, so a phase is done or not done; a killed job reads what is there and goes on, and a person can read in
them what was said, what it scored and why it was kept or dropped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from rluf_assets.chat import Message
from rluf_assets.distributed import ALONE, Ranks
from rluf_assets.errors import DataError
from rluf_assets.policy.batch import BASELINE
from rluf_assets.policy.config import OptimisationConfig, PromptGroup
from rluf_assets.policy.engine import Completion
from rluf_assets.policy.judges import find_judge
from rluf_assets.policy.objectives import Normalisation, add_rewards
from rluf_assets.policy.sampler import Samples
from rluf_assets.rewards.calibration import strata_of
from rluf_assets.text import FAREWELL


class Scorer(Protocol):
    """What a reward model offers (rewards.scoring.RewardModel)."""

    def score(self, prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> pl.DataFrame: ...


@dataclass(frozen=True)
class Prompt:
    """One optimisation prompt and the group it is optimised in."""

    prompt_id: str
    messages: list[Message]
    use_case: str
    group: PromptGroup


def publish(path: Path, make: Callable[[], pl.DataFrame], ranks: Ranks = ALONE) -> pl.DataFrame:
    """The frame at `path`; made by all ranks and published by the first if it is not there."""
    if not ranks.told(path.exists()):
        frame = make()
        if ranks.first:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            frame.write_parquet(beside)
            beside.replace(path)
        ranks.wait()
    return pl.read_parquet(path)


def read_prompts(file: str | Path | pl.DataFrame, split: str, groups: Sequence[PromptGroup] = ()) -> list[Prompt]:
    """Prompts of one split in file order; with `groups`, each in its own and those that no group takes left out.

    Raises DataError if none is left or a prompt id stands twice.
    """
    table, file = (file, "prompts") if isinstance(file, pl.DataFrame) else (pl.read_parquet(file), file)
    frame = table.filter(pl.col("split") == split)
    if frame["prompt_id"].n_unique() < frame.height:
        raise DataError(
            f"{file}: {frame.height - frame['prompt_id'].n_unique()} prompt ids of split {split!r} stand twice."
        )
    named = {use_case: group for group in groups for use_case in group.use_cases}
    rest = next((group for group in groups if not group.use_cases), None)
    prompts = [
        Prompt(row["prompt_id"], row["prompt"], row["use_case"] or "", group)
        for row in frame.iter_rows(named=True)
        if (group := named.get(row["use_case"], rest)) is not None
    ]
    if not prompts:
        raise DataError(
            f"{file}: {frame.height} prompts of split {split!r}, none for the groups {[g.name for g in groups]}. "
            "Materialise evaluation_prompts with more prompts, or mend the groups' use cases."
        )
    return prompts


def sample_frame(
    engine: Samples,
    prompts: Sequence[Prompt],
    config: OptimisationConfig,
    *,
    n: int | None,
    seed: int,
    ranks: Ranks = ALONE,
) -> pl.DataFrame:
    """Phase *sample*: each group's N completions per prompt (`n` None), or n of each; one is the prompt's baseline reply."""
    rows: list[dict[str, object]] = []
    for count in sorted({n or prompt.group.completions_per_prompt for prompt in prompts}):
        chosen = [prompt for prompt in prompts if (n or prompt.group.completions_per_prompt) == count]
        messages = [prompt.messages for prompt in chosen]
        draw = partial(
            engine.sample,
            messages,
            n=count,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=seed,
        )
        sampled = ranks.spread(len(chosen), lambda share, draw=draw: draw(only=share), together=engine.together)
        for prompt, completions in zip(chosen, sampled, strict=True):
            for k, completion in enumerate(completions):
                rows.append(_row(prompt, BASELINE if n == 1 else k, completion))
    return pl.DataFrame(rows, schema=SAMPLE_SCHEMA)


SAMPLE_SCHEMA = {
    "prompt_id": pl.String,
    "completion_id": pl.Int32,
    "group": pl.String,
    "use_case": pl.String,
    "prompt": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    "completion": pl.String,
    "token_ids": pl.List(pl.Int32),
    "finished": pl.Boolean,
    "logprob": pl.Float64,
    "control": pl.Boolean,
    "farewell": pl.Boolean,
}


def _row(prompt: Prompt, completion_id: int, completion: Completion) -> dict[str, object]:
    return {
        "prompt_id": prompt.prompt_id,
        "completion_id": completion_id,
        "group": prompt.group.name,
        "use_case": prompt.use_case,
        "prompt": prompt.messages,
        "completion": completion.text,
        "token_ids": completion.token_ids,
        "finished": completion.finished,
        "logprob": completion.logprob,
        "control": completion.control,
        "farewell": FAREWELL.found(completion.text),
    }


def score_rows(scorer: Any, rows: pl.DataFrame, ranks: Ranks = ALONE, **options: Any) -> pl.DataFrame:
    """A reward model's columns for every row (`prompt_id`, `prompt`, `completion`), in the rows' order.

    Where the rows have a use case and a turn, live probabilities are those of their strata.
    Whole prompts on each rank: a reward model reads a prompt once for all its replies. One that lies in parts over the
    ranks deals its batches out itself.
    """
    if getattr(scorer, "ranks", ALONE).size > 1:
        whole: pl.DataFrame = _scored(scorer, rows, options)
        return whole
    strata = pl.col("^(use_case|turn_index)$")
    rows = rows.select("prompt", "completion", strata, pl.col("prompt_id").rle_id().alias("run"))
    prompts = rows.partition_by("run", maintain_order=True)

    def score(share: list[int]) -> list[pl.DataFrame]:
        mine = pl.concat([prompts[i] for i in share])
        found = _scored(scorer, mine, options)
        parts = found.with_columns(run=mine["run"]).partition_by("run", maintain_order=True)
        return [part.drop("run") for part in parts]

    parts = ranks.spread(len(prompts), score)
    return pl.concat(parts) if parts else scorer.score([], [], **options)


def _scored(scorer: Any, rows: pl.DataFrame, options: dict[str, Any]) -> pl.DataFrame:
    strata = strata_of(rows)
    known = options if strata is None else options | {"strata": strata}
    found: pl.DataFrame = scorer.score(rows["prompt"].to_list(), rows["completion"].to_list(), **known)
    return found


def raw_scores(sample: pl.DataFrame, scorers: Mapping[str, Scorer], ranks: Ranks = ALONE) -> pl.DataFrame:
    """Ids with `logit_<objective>` and `probability_<objective>` of every reply; NaN where a score is no finite number.

    Infinity is what an overflowing pass answers, and would be the best of every four: it is no score, as NaN is none.
    """
    scores = sample.select("prompt_id", "completion_id", "group")
    for objective, scorer in scorers.items():
        found = score_rows(scorer, sample, ranks).select(pl.col("logit", "probability").cast(pl.Float64))
        found = found.select(pl.when(pl.col("logit").is_finite()).then(pl.all()).otherwise(float("nan")))
        scores = scores.hstack(found.rename({name: f"{name}_{objective}" for name in found.columns}))
    return scores


def mix_rewards(
    scores: pl.DataFrame, groups: Sequence[PromptGroup], normalisation: Normalisation, mixing: str
) -> pl.DataFrame:
    """Phase *score*: raw scores with each group's mixed reward, in the rows' order."""
    objectives = tuple(normalisation.mean)
    parts = [
        add_rewards(part, group.weights, objectives, normalisation, mixing)
        for group in groups
        if (part := scores.with_row_index("place").filter(pl.col("group") == group.name)).height
    ]
    return pl.concat(parts).sort("place").drop("place")


def judge_frame(
    sample: pl.DataFrame, scores: pl.DataFrame, groups: Sequence[PromptGroup], minimum_rewards: Mapping[str, float]
) -> pl.DataFrame:
    """Phase *judge*: `judge_<name>` (null where the group does not use it), `passed` (AND of them), `reasons`.

    Every group has `control_token`: engines sample none, and a reply that holds one all the same is never learned from.
    """
    names = sorted({name for group in groups for name in group.judges})
    used = {group.name: {name: find_judge(name) for name in group.judges} for group in groups}
    verdicts: dict[str, list[bool | None]] = {f"judge_{name}": [] for name in names}
    reasons: list[str] = []
    for row in sample.select("group", "prompt", "completion", "finished", "control").iter_rows(named=True):
        said = ["control_token: control token in reply"] if row["control"] else []
        for name in names:
            judge = used[row["group"]].get(name)
            verdict = judge(row["prompt"], row["completion"]) if judge else None
            passed = verdict.passed if verdict else None
            if verdict and not verdict.passed:
                said.append(f"{name}: {verdict.reason}")
            elif name == "unfinished" and verdict and not row["finished"]:
                passed = False
                said.append("unfinished: cut at the token limit")
            verdicts[f"judge_{name}"].append(passed)
        reasons.append("; ".join(said))
    frame = sample.select("prompt_id", "completion_id").with_columns(
        *(pl.Series(name, values, dtype=pl.Boolean) for name, values in verdicts.items()),
        (~sample["control"]).alias("judge_control_token"),
        pl.Series("reasons", reasons, dtype=pl.String),
        *(
            (scores[f"value_{objective}"].fill_nan(None) >= least).fill_null(False).alias(f"judge_minimum_{objective}")
            for objective, least in minimum_rewards.items()
        ),
    )
    judges = [name for name in frame.columns if name.startswith("judge_")]
    passed = pl.all_horizontal(pl.col(judges).fill_null(True)) if judges else pl.lit(True)
    return frame.with_columns(passed.alias("passed"))


def matrix(frame: pl.DataFrame, column: str, prompts: int) -> np.ndarray:
    """A column of a group's frame (sorted by prompt, then completion) as an array (prompts, K)."""
    return frame[column].to_numpy().reshape(prompts, -1)
