"""The optimisation loop: sample -> score -> judge -> select -> update, again and again.

Every phase's output is a file under `phases/<iteration>/`; the update's is the policy's and the optimiser's state. A
killed job resumes at the phase and ends with the same bytes as one that was never killed. Run by the job
optimise_policy; in a notebook, call `optimise_policy`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.errors import TrainingError
from rluf_assets.lake import write_json
from rluf_assets.policy.base import save_policy
from rluf_assets.policy.batch import BASELINE
from rluf_assets.policy.config import OptimisationConfig, PromptGroup
from rluf_assets.policy.engine import TransformersEngine
from rluf_assets.policy.objectives import Normalisation
from rluf_assets.policy.phases import (
    Prompt,
    Scorer,
    judge_frame,
    mix_rewards,
    publish,
    raw_scores,
    read_prompts,
    sample_frame,
)
from rluf_assets.policy.record import iteration_row, iterations_frame
from rluf_assets.policy.sampler import Sampler, new_sampler
from rluf_assets.policy.selecting import LogRatios, SlowJudge, select_frame
from rluf_assets.policy.state import load_state, newest_state, save_state
from rluf_assets.policy.update import UpdateFigures, new_optimizer, update

Report = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Folders:
    """Where a run writes: its artifact, and the resume state that is not part of it."""

    out: Path
    phases: Path
    checkpoints: Path
    logs: Path


@dataclass(frozen=True)
class _Run:
    """What stays the same over iterations."""

    config: OptimisationConfig
    groups: Sequence[PromptGroup]
    folders: Folders
    seed: int
    policy: TransformersEngine
    reference: TransformersEngine
    sampler: Sampler
    scorers: Mapping[str, Scorer]
    slow_judge: SlowJudge | None
    schedule: list[list[Prompt]]


def optimise_policy(
    base_policy: Path,
    prompts_file: Path,
    scorers: Mapping[str, Scorer],
    folders: Folders,
    config: OptimisationConfig,
    *,
    seed: int,
    report: Report = lambda done, total, figures: None,
    slow_judge: SlowJudge | None = None,
) -> list[dict[str, Any]]:
    """Optimise `base_policy` for a candidate's objectives and write its policy folder; returns one row per iteration.

    `scorers`: objective name -> reward model. Raises ConfigError for unknown names, DataError for unusable prompts or
    rewards, TrainingError when nothing survives the constraints any more or too many rewards are NaN.
    """
    config.check_names(scorers)
    if config.optimiser == "none":
        copy_policy(base_policy, folders.out)
        _write_record(folders.out, config, (), None, [])
        return []
    groups = config.prompt_groups()
    prompts = read_prompts(prompts_file, "optimisation", groups)
    policy = TransformersEngine(base_policy, batch_tokens=config.sampling_tokens)
    run = _Run(
        config,
        groups,
        folders,
        seed,
        policy,
        TransformersEngine(base_policy, batch_tokens=config.sampling_tokens),
        new_sampler(policy, base_policy, folders.checkpoints / "sampled", config),
        scorers,
        slow_judge,
        prompt_schedule(prompts, config, seed),
    )
    reference, normalisation = _reference(run)
    optimizer = new_optimizer(run.policy, config)
    newest = newest_state(folders.checkpoints)
    rows: list[dict[str, Any]] = load_state(newest, run.policy.model, optimizer)["rows"] if newest else []
    while len(rows) < config.iterations and not stop_reason(rows, config):
        iteration = len(rows) + 1
        rows.append(_iterate(run, iteration, reference, normalisation, optimizer))
        # Checked before the state is saved: a run that is started again stops with the same message.
        check_health(rows, config)
        save_state(folders.checkpoints / f"{iteration:06d}.safetensors", run.policy.model, optimizer, {"rows": rows})
        for old in sorted(folders.checkpoints.glob("*.safetensors"))[:-2]:
            old.unlink()
        report(iteration, config.iterations, rows[-1])
    save_policy(run.policy.model, run.policy.encoder.tokenizer, folders.out)
    _write_record(folders.out, config, groups, normalisation, rows)
    return rows


def prompt_schedule(prompts: Sequence[Prompt], config: OptimisationConfig, seed: int) -> list[list[Prompt]]:
    """The prompts of each iteration: passes over all, each in a random order of its own, none twice in an iteration."""
    rng = np.random.default_rng([seed, 1])
    size = min(config.prompts_per_iteration, len(prompts))
    order: list[int] = []
    schedule = []
    for _ in range(config.iterations):
        if len(order) < size:
            held = set(order)
            order += [i for i in rng.permutation(len(prompts)).tolist() if i not in held]
        taken, order = order[:size], order[size:]
        schedule.append([prompts[i] for i in taken])
    return schedule


def _reference(run: _Run) -> tuple[pl.DataFrame, Normalisation]:
    """Baseline replies with scores and verdicts, and the scales: one reply of the reference policy per prompt seen."""
    seen = {prompt.prompt_id: prompt for prompts in run.schedule for prompt in prompts}
    folder = run.folders.phases / "reference"
    sample = publish(
        folder / "sample.parquet",
        lambda: sample_frame(run.reference, list(seen.values()), run.config, n=1, seed=_seed(run.seed, 0)),
    )
    raw = publish(folder / "raw_scores.parquet", lambda: raw_scores(sample, run.scorers))
    normalisation = Normalisation.fit(raw.head(run.config.reference_samples), tuple(run.scorers))
    score = publish(folder / "score.parquet", lambda: mix_rewards(raw, run.groups, normalisation, run.config.mixing))
    judge = publish(
        folder / "judge.parquet", lambda: judge_frame(sample, score, run.groups, run.config.minimum_rewards)
    )
    return _joined(sample, score, judge), normalisation


def _iterate(
    run: _Run, iteration: int, reference: pl.DataFrame, normalisation: Normalisation, optimizer: Any
) -> dict[str, Any]:
    """One iteration: four phases from their files or made now, then the update; returns its row of the record."""
    config, prompts, started = run.config, run.schedule[iteration - 1], time.perf_counter()
    folder, seed = run.folders.phases / f"{iteration:06d}", _seed(run.seed, iteration)
    seconds: dict[str, float] = {}

    def phase(name: str, make: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        begin = time.perf_counter()
        frame = publish(folder / f"{name}.parquet", make)
        seconds[name] = time.perf_counter() - begin
        return frame

    sample = phase("sample", lambda: sample_frame(run.sampler.renew(), prompts, config, n=None, seed=seed))
    score = phase(
        "score", lambda: mix_rewards(raw_scores(sample, run.scorers), run.groups, normalisation, config.mixing)
    )
    judge = phase("judge", lambda: judge_frame(sample, score, run.groups, config.minimum_rewards))
    ids = [prompt.prompt_id for prompt in prompts]
    replies = pl.concat(
        [_joined(sample, score, judge), reference.filter(pl.col("prompt_id").is_in(ids))], how="diagonal"
    ).sort("prompt_id", "completion_id")
    ratios = LogRatios(run.policy, run.reference, replies, config)
    selected = phase("select", lambda: select_frame(replies, run.groups, config, ratios, run.slow_judge, seed))
    begin = time.perf_counter()
    figures = UpdateFigures(0.0, 0.0, 0)
    if selected["role"].is_not_null().any():
        figures = update(run.policy, optimizer, run.reference, selected, run.groups, config, seed)
    seconds["update"] = time.perf_counter() - begin
    row = iteration_row(iteration, selected, run.groups, tuple(run.scorers), figures)
    _log(run.folders.logs, row, seconds, time.perf_counter() - started, sample)
    return row


def check_health(rows: Sequence[Mapping[str, Any]], config: OptimisationConfig) -> None:
    """Raise TrainingError if too many prompts had NaN rewards, or nothing has survived for some iterations."""
    nan, prompts = sum(row["set_aside"] for row in rows), sum(row["prompts"] for row in rows)
    if nan > config.max_nan_share * prompts:
        raise TrainingError(
            f"iteration {len(rows)}: rewards of {nan} of {prompts} prompts are NaN, more than "
            f"{config.max_nan_share:.1%}. See outcome 'set aside' in phases/*/select.parquet and retrain that model."
        )
    last = rows[-config.max_empty_iterations :]
    if len(last) == config.max_empty_iterations and all(row["learned"] == 0 for row in last):
        worst = max(
            (key for key in rows[-1] if key.startswith("judge_")), key=lambda key: rows[-1][key] or 0.0, default="none"
        )
        raise TrainingError(
            f"iterations {len(rows) - len(last) + 1} to {len(rows)}: no reply met every constraint "
            f"(fails most: {worst}, {rows[-1].get(worst)}; share over kl_max: {rows[-1]['kl_over_max']}). "
            "Loosen judges or kl_max, or start from a better base policy."
        )


def stop_reason(rows: Sequence[Mapping[str, Any]], config: OptimisationConfig) -> str | None:
    """Why the run should end before its last iteration, if asked for and met."""
    if not rows:
        return None
    for limit, figure in ((config.stop_kl_mean, "kl_mean"), (config.stop_farewell_share, "farewell_share")):
        value = rows[-1][figure]
        if limit is not None and value is not None and value > limit:
            return f"{figure} {value:.4g} > {limit:g} in iteration {len(rows)}"
    return None


def copy_policy(base_policy: Path, out: Path) -> None:
    """The base policy's model and tokenizer files, as they are."""
    for file in sorted(base_policy.iterdir()):
        if file.is_file() and file.name not in ("manifest.json", "metrics.json"):
            shutil.copyfile(file, out / file.name)


def _joined(sample: pl.DataFrame, score: pl.DataFrame, judge: pl.DataFrame) -> pl.DataFrame:
    """A phase's frames side by side: they have the same rows in the same order."""
    ids = ["prompt_id", "completion_id", "group"]
    return pl.concat([sample, score.drop(ids), judge.drop(ids[:2])], how="horizontal")


def _seed(seed: int, iteration: int) -> int:
    """An own random stream per iteration (0: the reference policy's replies)."""
    return int(np.random.SeedSequence([seed, iteration]).generate_state(1, np.uint64)[0])


def _write_record(
    out: Path,
    config: OptimisationConfig,
    groups: Sequence[PromptGroup],
    normalisation: Normalisation | None,
    rows: Sequence[Mapping[str, Any]],
) -> None:
    objectives = {
        "optimiser": config.optimiser,
        "mixing": config.mixing,
        "groups": {
            group.name: {"weights": group.weights, "gradient_weight": group.gradient_weight} for group in groups
        },
        "weights": config.weights,
        "mean": dict(normalisation.mean) if normalisation else {},
        "std": dict(normalisation.std) if normalisation else {},
        "iterations": len(rows),
        "stopped": stop_reason(rows, config),
    }
    write_json(str(out / "objectives.json"), objectives)
    iterations_frame(rows).write_parquet(out / "iterations.parquet")


def _log(logs: Path, row: Mapping[str, Any], seconds: Mapping[str, float], wall_s: float, sample: pl.DataFrame) -> None:
    """One line of `logs/metrics.jsonl`: the record's row with what depends on the machine."""
    tokens = int(sample.filter(pl.col("completion_id") != BASELINE)["token_ids"].list.len().sum())
    line = {
        **row,
        **{f"seconds_{name}": round(value, 4) for name, value in seconds.items()},
        "seconds": round(wall_s, 4),
        "sampled_tokens_per_s": round(tokens / max(seconds["sample"], 1e-9), 1),
        "prompts_per_s": round(row["prompts"] / wall_s, 3),
    }
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
