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
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.distributed import Ranks, Zero, device, join
from rluf_assets.lake import write_json
from rluf_assets.policy.batch import BASELINE
from rluf_assets.policy.config import OptimisationConfig, PromptGroup
from rluf_assets.policy.engine import TransformersEngine
from rluf_assets.policy.health import check_health, stop_reason
from rluf_assets.policy.learner import Learner, new_learner
from rluf_assets.policy.llm_judge import LlmJudge
from rluf_assets.policy.objectives import Normalisation
from rluf_assets.policy.optimised import OptimisedPolicy
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
from rluf_assets.policy.sampler import Sampler, new_engine, new_sampler
from rluf_assets.policy.selecting import LogRatios, SlowJudge, select_frame
from rluf_assets.policy.update import UpdateFigures, update
from rluf_assets.progress import printed
from rluf_assets.rewards.reward import Reward
from rluf_assets.rewards.scoring import load_scorer

# What a line of progress shows.
SHOWN = ("reward", "learned", "skipped", "kl_mean")
Report = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Folders:
    """Where a run writes: its artifact, and the resume state that is not part of it."""

    out: Path
    phases: Path
    checkpoints: Path
    logs: Path

    @classmethod
    def under(cls, out: Path) -> Folders:
        """All beneath the artifact, where `lake.SCRATCH` names what is not part of it."""
        folders = cls(out, out / "phases", out / "checkpoints", out / "logs")
        for folder in (folders.phases, folders.checkpoints, folders.logs):
            folder.mkdir(parents=True, exist_ok=True)
        return folders


@dataclass(frozen=True)
class _Run:
    """What stays the same over iterations."""

    config: OptimisationConfig
    groups: Sequence[PromptGroup]
    folders: Folders
    seed: int
    policy: TransformersEngine
    reference: TransformersEngine
    learner: Learner
    sampler: Sampler
    scorers: Mapping[str, Scorer]
    ranks: Ranks
    slow_judge: SlowJudge | None
    schedule: list[list[Prompt]]


def optimise_policy(
    base: str | Path,
    prompts: str | Path | pl.DataFrame,
    rewards: Mapping[str, Scorer | Reward | str | Path],
    config: OptimisationConfig,
    *,
    out: str | Path,
    seed: int = 0,
    progress: Report | None = None,
    slow_judge: SlowJudge | None = None,
) -> OptimisedPolicy:
    """Optimise the policy in folder `base` for a candidate's objectives, and write the new one to `out`.

    `prompts`: rows prompt_id, prompt, use_case and split "optimisation", or their file. `rewards`: objective -> reward model,
    or its folder. Killed, the same call goes on from what it left in `out`. Under `accelerate launch` all ranks call it.
    Raises ConfigError for unknown names, DataError for unusable prompts or rewards, TrainingError when nothing survives the
    constraints any more or too many rewards are NaN.
    """
    config.check_names(rewards)
    base_policy, folders = Path(base), Folders.under(Path(out))
    zero = Zero.of_launch(config.dtype, config.max_gradient_norm)  # joins the launch, before anything is loaded
    ranks, report = join(), progress or _printed()
    if config.optimiser == "none":
        if ranks.first:
            copy_policy(base_policy, folders.out)
            _write_record(folders.out, config, (), None, [])
        return OptimisedPolicy(folders.out)
    scorers = {name: _scorer(reward, config, zero) for name, reward in rewards.items()}
    if slow_judge is None and config.llm_judge:
        slow_judge = LlmJudge(config.llm_judge, device=device())
    groups = config.prompt_groups()
    chosen = read_prompts(prompts, "optimisation", groups)
    policy, reference = _engine(base_policy, config, zero), _reference_engine(base_policy, config, zero)
    if config.gradient_checkpointing:
        policy.model.gradient_checkpointing_enable()
    learner = new_learner(policy, config, ranks, zero)
    run = _Run(
        config,
        groups,
        folders,
        seed,
        policy,
        reference,
        learner,
        new_sampler(
            policy,
            learner,
            base_policy,
            folders.checkpoints / "sampled",
            config,
            ranks,
            zero,
            [prompt.messages for prompt in chosen],
        ),
        scorers,
        ranks,
        slow_judge,
        prompt_schedule(chosen, config, seed),
    )
    baseline, normalisation = _reference(run)
    rows = learner.load_state(folders.checkpoints)
    while len(rows) < config.iterations and not stop_reason(rows, config):
        iteration = len(rows) + 1
        row, cost = _iterate(run, iteration, baseline, normalisation)
        rows.append(row)
        # Checked before the state is saved: a run that is started again stops with the same message.
        check_health(rows, config)
        if iteration % config.checkpoint_every == 0:
            learner.save_state(folders.checkpoints, iteration, rows)
        if ranks.first:
            report(iteration, config.iterations, {**row, **cost})
    learner.save_policy(folders.out)
    if ranks.first:
        _write_record(folders.out, config, groups, normalisation, rows)
    ranks.wait()
    return OptimisedPolicy(folders.out)


def _scorer(reward: Scorer | Reward | str | Path, config: OptimisationConfig, zero: Zero | None) -> Scorer:
    if isinstance(reward, Reward | str | Path):
        return load_scorer(reward.folder if isinstance(reward, Reward) else reward, config.dtype, zero)
    return reward


def _printed() -> Report:
    line = printed("iteration")
    return lambda done, total, figures: line(
        done, total, **{name: value for name in SHOWN if (value := figures.get(name)) is not None}
    )


def _engine(folder: Path, config: OptimisationConfig, zero: Zero | None) -> TransformersEngine:
    with zero.loading() if zero else nullcontext():
        return new_engine(folder, config)


def _reference_engine(folder: Path, config: OptimisationConfig, zero: Zero | None) -> TransformersEngine:
    """The policy that is not trained: sharded where the weights are, else whole on every rank.

    Whole, it keeps the passes' own precision: through DeepSpeed's engine it would run in that of its weights, float32.
    """
    engine = _engine(folder, config, zero)
    if zero is not None and zero.shards_weights:
        engine.pass_through(zero.read_only(engine.model), zero.rounds)
    return engine


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
    """Baseline replies with scores and verdicts, one per prompt seen, and the scales, from several replies to some of them.

    Before the first step, which is when this runs, the policy is the reference policy; so what samples it samples these.
    """
    seen = {prompt.prompt_id: prompt for prompts in run.schedule for prompt in prompts}
    folder = run.folders.phases / "reference"
    count, n = reference_draws(len(seen), run.config.reference_samples)

    def drawn(name: str, prompts: list[Prompt], n: int, *seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        def sample() -> pl.DataFrame:
            engine = run.sampler.renew()
            return sample_frame(engine, prompts, run.config, n=n, seed=_seed(run.seed, *seed), ranks=run.ranks)

        said = publish(folder / f"{name}sample.parquet", sample, run.ranks)
        scored = publish(
            folder / f"{name}raw_scores.parquet", lambda: raw_scores(said, run.scorers, run.ranks), run.ranks
        )
        return said, scored

    sample, raw = drawn("", list(seen.values()), 1, 0)
    _, several = drawn("scale_", list(seen.values())[:count], n, 0, 1)
    normalisation = Normalisation.fit(several, tuple(run.scorers))
    score = publish(
        folder / "score.parquet", lambda: mix_rewards(raw, run.groups, normalisation, run.config.mixing), run.ranks
    )
    judge = publish(
        folder / "judge.parquet", lambda: judge_frame(sample, score, run.groups, run.config.minimum_rewards), run.ranks
    )
    return _joined(sample, score, judge), normalisation


def reference_draws(prompts: int, samples: int) -> tuple[int, int]:
    """How many prompts get how many reference replies, about `samples` in all: two each, up to eight where prompts are few."""
    n = min(8, max(2, -(-samples // prompts)))
    return min(prompts, max(1, samples // n)), n


def _iterate(
    run: _Run, iteration: int, reference: pl.DataFrame, normalisation: Normalisation
) -> tuple[dict[str, Any], dict[str, float]]:
    """One iteration: four phases from their files or made now, then the update; its row of the record, and its cost."""
    config, prompts, started = run.config, run.schedule[iteration - 1], time.perf_counter()
    folder, seed = run.folders.phases / f"{iteration:06d}", _seed(run.seed, iteration)
    seconds: dict[str, float] = {}

    def phase(name: str, make: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        begin = time.perf_counter()
        frame = publish(folder / f"{name}.parquet", make, run.ranks)
        seconds[name] = time.perf_counter() - begin
        return frame

    sample = phase(
        "sample", lambda: sample_frame(run.sampler.renew(), prompts, config, n=None, seed=seed, ranks=run.ranks)
    )
    score = phase(
        "score",
        lambda: mix_rewards(raw_scores(sample, run.scorers, run.ranks), run.groups, normalisation, config.mixing),
    )
    judge = phase("judge", lambda: judge_frame(sample, score, run.groups, config.minimum_rewards))
    ids = [prompt.prompt_id for prompt in prompts]
    replies = pl.concat(
        [_joined(sample, score, judge), reference.filter(pl.col("prompt_id").is_in(ids))], how="diagonal"
    ).sort("prompt_id", "completion_id")
    ratios = LogRatios(run.policy, run.reference, replies, config, run.ranks)
    selected = phase("select", lambda: select_frame(replies, run.groups, config, ratios, run.slow_judge, seed))
    begin = time.perf_counter()
    figures = UpdateFigures(0.0, 0.0, 0)
    if selected["role"].is_not_null().any():
        figures = update(run.policy, run.learner, selected, run.groups, config, seed, run.ranks)
    seconds["update"] = time.perf_counter() - begin
    row = iteration_row(iteration, selected, config, tuple(run.scorers), figures)
    cost = _cost(row, seconds, time.perf_counter() - started, sample)
    if run.ranks.first:
        run.folders.logs.mkdir(parents=True, exist_ok=True)
        with (run.folders.logs / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps({**row, **cost}) + "\n")
    return row, cost


def copy_policy(base_policy: Path, out: Path) -> None:
    """The base policy's model and tokenizer files, as they are."""
    for file in sorted(base_policy.iterdir()):
        if file.is_file() and file.name not in ("manifest.json", "metrics.json"):
            shutil.copyfile(file, out / file.name)


def _joined(sample: pl.DataFrame, score: pl.DataFrame, judge: pl.DataFrame) -> pl.DataFrame:
    """A phase's frames side by side: they have the same rows in the same order."""
    ids = ["prompt_id", "completion_id", "group"]
    return pl.concat([sample, score.drop(ids), judge.drop(ids[:2])], how="horizontal")


def _seed(seed: int, *stream: int) -> int:
    """An own random stream per iteration (0: the reference policy's replies)."""
    return int(np.random.SeedSequence([seed, *stream]).generate_state(1, np.uint64)[0])


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


def _cost(
    row: Mapping[str, Any], seconds: Mapping[str, float], wall_s: float, sample: pl.DataFrame
) -> dict[str, float]:
    """What depends on the machine, and so stands in `logs/metrics.jsonl` alone: seconds per phase, tokens/s, prompts/s."""
    tokens = int(sample.filter(pl.col("completion_id") != BASELINE)["token_ids"].list.len().sum())
    return {
        **{f"seconds_{name}": round(value, 4) for name, value in seconds.items()},
        "seconds": round(wall_s, 4),
        "sampled_tokens_per_s": round(tokens / max(seconds["sample"], 1e-9), 1),
        "prompts_per_s": round(row["prompts"] / wall_s, 3),
    }
