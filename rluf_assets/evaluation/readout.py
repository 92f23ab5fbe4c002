"""A/B readout: what users did when they saw a candidate, against the baseline's arm.

The user is the unit: metrics are ratios of sums over users, variances come from the delta method, what users brought with
them is taken out by the pre-period and a prediction from it, and relative lifts carry Fieller's interval. Users found in
both arms are left out, or treated as paired where the plan says so (a simulation shows every arm to the same users). Where
the exposed replies are given and users share them, variances are clustered by user and by reply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from rluf_assets.charts import colours
from rluf_assets.errors import DataError
from rluf_assets.evaluation.ab_plots import power_plot
from rluf_assets.evaluation.clustering import TwoWay, checked_replies, reply_log
from rluf_assets.evaluation.config import Metric, ReadoutConfig
from rluf_assets.evaluation.experiment import CHECK_SCHEMA, check_test, excluded, require_planned
from rluf_assets.evaluation.exposures import (
    Arm,
    checked,
    counted,
    measured,
    per_user,
    segments_of,
    with_adversarial,
)
from rluf_assets.evaluation.frames import ALL, read_parquet, require_baseline
from rluf_assets.evaluation.judging import judge
from rluf_assets.evaluation.metric import compare_metric
from rluf_assets.evaluation.over_days import DAY_SCHEMA, lift_by_day, novelty_check, part_of
from rluf_assets.evaluation.plots import forest
from rluf_assets.evaluation.power import users_needed
from rluf_assets.evaluation.segments import (
    SEGMENT_SCHEMA,
    USE_CASE,
    cells,
    groups_of_users,
    judge_segments,
    too_small,
)
from rluf_assets.evaluation.words import percent, span
from rluf_assets.lake import read_json, write_json

if TYPE_CHECKING:
    import plotly.graph_objects as go

READOUT_SCHEMA: dict[str, Any] = {
    "candidate": pl.String, "baseline": pl.String,
    "metric": pl.String, "role": pl.String, "better": pl.String, "segment": pl.String,
    "control": pl.Float64, "treatment": pl.Float64, "lift": pl.Float64, "lift_error": pl.Float64,
    "ci_low": pl.Float64, "ci_high": pl.Float64,
    "p_value": pl.Float64, "p_adjusted": pl.Float64, "z": pl.Float64, "look": pl.Int64,
    "plan_low": pl.Float64, "plan_high": pl.Float64, "sequential_low": pl.Float64, "sequential_high": pl.Float64,
    "shrunk_lift": pl.Float64, "events_control": pl.Int64, "events_treatment": pl.Int64,
    "share_difference": pl.Float64, "share_low": pl.Float64, "share_high": pl.Float64,
    "events_per_user": pl.Float64, "events_per_user_low": pl.Float64, "events_per_user_high": pl.Float64,
    "unadjusted_lift": pl.Float64, "variance_removed": pl.Float64, "adjusted_by": pl.String, "mde": pl.Float64,
    "margin": pl.Float64, "absolute_margin": pl.Float64, "result": pl.String, "verdict": pl.String,
    "itt_lift": pl.Float64, "itt_low": pl.Float64, "itt_high": pl.Float64,
    "n_control": pl.Int64, "n_treatment": pl.Int64,
}  # fmt: skip


@dataclass(frozen=True)
class Readout:
    """metrics: one row per candidate x metric x segment. checks: one row per candidate x check of the test itself.

    days: one row per candidate x goal metric x day since first exposure, where the exposed replies have days. segments: one
    row per candidate x group of users x judged metric. plan: hash of the plan that it was read under.
    """

    metrics: pl.DataFrame
    checks: pl.DataFrame
    days: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=DAY_SCHEMA))
    plan: str | None = None
    segments: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SEGMENT_SCHEMA))

    @property
    def candidates(self) -> list[str]:
        """The arms that were compared with the baseline's."""
        return self.metrics["candidate"].unique(maintain_order=True).to_list()

    @property
    def overall(self) -> pl.DataFrame:
        """One row per candidate x metric, over all use cases."""
        return self.metrics.filter(pl.col("segment") == ALL)

    @property
    def goals(self) -> pl.DataFrame:
        """One row per candidate x goal metric that was measured, over all use cases."""
        return self.overall.filter(pl.col("role") == "goal", pl.col("mde").is_not_null())

    @property
    def sentences(self) -> list[str]:
        """One per candidate and goal: the lift with its intervals, what is left of it, and what such a test can find."""
        return [
            f"**{r['candidate']}**: {r['metric'].replace('_', ' ')} {percent(r['lift'], signed=True)} "
            f"({span(r['ci_low'], r['ci_high'])}); by the plan, {span(r['plan_low'], r['plan_high'])}; chosen among several, "
            f"it is rather {percent(r['shrunk_lift'], signed=True)}. Smallest effect it finds: {percent(r['mde'])}; a true "
            f"+10% would take {users_needed(r, 0.1):,} users."
            for r in self.goals.iter_rows(named=True)
        ]

    def plot_lifts(self) -> go.Figure:
        """Change of every metric against the baseline's arm, with intervals."""
        table = self.overall.filter(pl.col("lift").is_not_null())
        table = table.select("candidate", "metric", value="lift", low="ci_low", high="ci_high")
        return forest("ab-test", table, "metric", colours(self.candidates), "").figure

    def plot_power(self, config: ReadoutConfig | None = None) -> go.Figure | None:
        """How likely a test of another size shows a true lift; None where no goal has events in both arms."""
        plot = power_plot(self.overall, config or ReadoutConfig())
        return None if plot is None else plot.figure

    def without(self, *arms: str) -> Readout:
        """The readout without some arms (controls, say)."""
        kept = {
            name: table.filter(~pl.col("candidate").is_in(arms))
            for name in ("metrics", "checks", "days", "segments")
            if "candidate" in (table := getattr(self, name)).columns
        }
        return replace(self, **kept)

    def row(self, candidate: str, metric: str, segment: str = ALL) -> dict[str, Any] | None:
        """One candidate's figures for a metric, or None if it was not measured."""
        same = (pl.col("candidate") == candidate) & (pl.col("metric") == metric) & (pl.col("segment") == segment)
        found = self.metrics.filter(same)
        return found.row(0, named=True) if len(found) else None

    def _repr_html_(self) -> str:
        return str(self.metrics.filter(pl.col("segment") == ALL)._repr_html_())


def no_readout() -> Readout:
    """The readout of a production that had nothing to compare."""
    return Readout(pl.DataFrame(schema=READOUT_SCHEMA), pl.DataFrame(schema=CHECK_SCHEMA))


def read_readout(folder: Path) -> Readout:
    """A readout as the job wrote it. Raises ArtifactMissing for an absent table."""
    metrics, checks, days = (read_parquet(folder / f"{name}.parquet") for name in ("readout", "checks", "by_day"))
    plan, groups = str(read_json(str(folder / "plan.json"))["hash"]), folder / "segments.parquet"
    if not groups.exists():  # of a version that did not know any: nothing was measured
        return Readout(metrics, checks, days, plan)
    return Readout(metrics, checks, days, plan, read_parquet(groups))


def write_readout(readout: Readout, config: ReadoutConfig, folder: Path) -> None:
    """`readout.parquet`, `checks.parquet`, `by_day.parquet`, `segments.parquet`, and `plan.json`: the plan and its hash."""
    readout.metrics.write_parquet(folder / "readout.parquet")
    readout.checks.write_parquet(folder / "checks.parquet")
    readout.days.write_parquet(folder / "by_day.parquet")
    readout.segments.write_parquet(folder / "segments.parquet")
    write_json(str(folder / "plan.json"), {"hash": config.plan.hash, "plan": config.plan.model_dump(mode="json")})


def read_out(
    exposures: Mapping[str, pl.DataFrame],
    config: ReadoutConfig,
    *,
    replies: Mapping[str, pl.DataFrame] | None = None,
) -> Readout:
    """Compare every candidate's arm with the baseline's.

    exposures: candidate -> `ab_exposures` frame (one row per user, or per user x use_case). replies: candidate -> one
    row per exposure (user_id, reply_id, counts), where users share replies. Raises DataError for a missing baseline,
    an empty arm, columns that are missing or cannot be read, or replies that do not add up.
    """
    require_baseline("A/B readout", exposures, config.baseline)
    if len(exposures) < 2:
        raise DataError(
            f"A/B readout: found only the baseline {config.baseline!r}, expected at least one candidate arm to compare. "
            "Materialise ab_exposures of a candidate."
        )
    require_planned(exposures, config)
    exposures = {name: checked(name, frame, config) for name, frame in exposures.items()}
    replies = {name: checked_replies(name, frame, counted(config)) for name, frame in (replies or {}).items()}
    exposures = with_adversarial(exposures, replies, config.adversarial)
    kept = excluded(exposures, config.plan)
    arms = _arms(kept, replies)
    everyone = arms if kept is exposures else _arms(exposures, replies)
    rows: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []
    days, groups = [pl.DataFrame(schema=DAY_SCHEMA)], [pl.DataFrame(schema=SEGMENT_SCHEMA)]
    base = arms[config.baseline]
    for name, arm in arms.items():
        if name == config.baseline:
            continue
        checks += check_test(name, exposures, arms, config)
        if arm is None or base is None:
            continue
        overall = _compare_arms(name, ALL, arm, base, config)
        rows += _with_everyone(overall, name, arm, base, everyone, config)
        by_use_case, judged = _read_segments(name, kept, arm, base, config)
        rows += by_use_case
        groups.append(judged)
        days.append(lift_by_day(name, arm, base, config, partial(_compare_shared, config=config)))
        novelty = novelty_check(name, days[-1], overall, config)
        checks += [novelty] if novelty else []
    if not rows:
        return Readout(
            pl.DataFrame(schema=READOUT_SCHEMA), pl.DataFrame(checks, schema=CHECK_SCHEMA), plan=config.plan.hash
        )
    metrics = judge(pl.DataFrame(rows, schema_overrides=READOUT_SCHEMA, infer_schema_length=None), config)
    columns = [
        pl.col(c).cast(t) if c in metrics.columns else pl.lit(None, t).alias(c) for c, t in READOUT_SCHEMA.items()
    ]
    return Readout(
        metrics.select(columns), pl.DataFrame(checks, schema=CHECK_SCHEMA), pl.concat(days), config.plan.hash,
        pl.concat(groups),
    )  # fmt: skip


def _arms(exposures: Mapping[str, pl.DataFrame], replies: Mapping[str, pl.DataFrame]) -> dict[str, Arm | None]:
    """Each arm's users and what they were shown; None where the plan's exclusions left nobody."""
    found: dict[str, Arm | None] = {}
    for name, frame in exposures.items():
        if frame.is_empty():
            found[name] = None
            continue
        users = per_user(name, frame)
        log = replies.get(name)
        known = None if log is None else log.join(users.select("user_id"), on="user_id", how="semi")
        found[name] = Arm(users, None if known is None else reply_log(name, known, users))
    return found


def _with_everyone(
    rows: list[dict[str, Any]],
    name: str,
    arm: Arm,
    base: Arm,
    everyone: Mapping[str, Arm | None],
    config: ReadoutConfig,
) -> list[dict[str, Any]]:
    """The rows with the lift over all who were assigned (intention to treat) beside them, where users were left out."""
    ours, theirs = everyone[name], everyone[config.baseline]
    if ours is None or theirs is None or (len(ours.users), len(theirs.users)) == (len(arm.users), len(base.users)):
        return rows
    whole = {r["metric"]: r for r in _compare_arms(name, ALL, ours, theirs, config)}
    figures = {"itt_lift": "lift", "itt_low": "ci_low", "itt_high": "ci_high"}
    return [{**r, **{k: whole.get(r["metric"], {}).get(v) for k, v in figures.items()}} for r in rows]


def _read_segments(
    name: str, exposures: Mapping[str, pl.DataFrame], arm: Arm, base: Arm, config: ReadoutConfig
) -> tuple[list[dict[str, Any]], pl.DataFrame]:
    """The readout's rows by use case, and for every group of users whether it is worse off."""
    rows: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    by_use_case = ((USE_CASE, *of) for of in _segments(name, exposures, arm, base, config))
    planned = (*config.plan.goals, *config.plan.guardrails)
    judged = config.model_copy(update={"metrics": tuple(m for m in config.metrics if m.name in planned)})
    for trait, group, ours, theirs in chain(by_use_case, groups_of_users(name, exposures, arm, base, config)):
        if min(len(ours.users), len(theirs.users)) < config.min_segment_users:
            found.append(too_small(name, trait, group, ours, theirs, config))
            continue
        read = _compare_arms(name, group, ours, theirs, config if trait == USE_CASE else judged)
        found += cells(trait, group, read, config)
        rows += read if trait == USE_CASE else []
    return rows, judge_segments(found, config, len(arm.users) + len(base.users))


def _segments(
    name: str, exposures: Mapping[str, pl.DataFrame], arm: Arm, base: Arm, config: ReadoutConfig
) -> Iterator[tuple[str, Arm, Arm]]:
    """Use cases with both arms' part in them: from exposures split by use case, else from the exposed replies."""
    pair = (name, config.baseline)
    for segment in segments_of(exposures[name], exposures[config.baseline]):
        ours, theirs = (Arm(per_user(n, exposures[n], segment)) for n in pair)
        yield segment, ours, theirs
    if "use_case" in exposures[name].columns or arm.log is None or base.log is None:
        return
    for segment in segments_of(arm.log.frame, base.log.frame):
        parts = [part_of(n, a, pl.col("use_case") == segment) for n, a in zip(pair, (arm, base), strict=True)]
        if parts[0] is not None and parts[1] is not None:
            yield segment, parts[0], parts[1]


def _compare_arms(name: str, segment: str, arm: Arm, base: Arm, config: ReadoutConfig) -> list[dict[str, Any]]:
    two_way = _two_way(arm, base)
    rows = []
    for metric in measured(config.judged, arm.users, base.users):
        row = compare_metric(metric, arm, base, config, two_way)
        if row is not None:
            rows.append({"candidate": name, "baseline": config.baseline, "segment": segment, **row})
    return rows


def _two_way(arm: Arm, base: Arm) -> TwoWay | None:
    return TwoWay.of(arm.log, base.log) if arm.log is not None and base.log is not None else None


def _compare_shared(metric: Metric, arm: Arm, base: Arm, config: ReadoutConfig) -> dict[str, Any] | None:
    return compare_metric(metric, arm, base, config, _two_way(arm, base))
