"""A team's own logs as if they were an A/B test: how large a test must be, and whether the readout keeps its level there.

Users of the last days, what they did before as their pre-period. `aa_test` splits them into two arms that nobody treated
differently, a thousand times, and counts how often the readout calls a difference: users as clusters, ratios and what is
taken out by the pre-period as in a real test.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.evaluation.clustering import LABELLED
from rluf_assets.evaluation.config import ReadoutConfig
from rluf_assets.evaluation.exposures import Arm, measured
from rluf_assets.evaluation.metric import compare_metric
from rluf_assets.feedback.config import AdversarialConfig
from rluf_assets.feedback.schemas import MESSAGE_KEY
from rluf_assets.feedback.splits import adversarial_users

LABEL = "label_"
AA_SCHEMA = {"metric": pl.String, "runs": pl.Int64, "called": pl.Int64, "share": pl.Float64, "low": pl.Float64,
             "high": pl.Float64, "keeps": pl.Boolean}  # fmt: skip


def users_of_logs(
    replies: pl.LazyFrame,
    days: int,
    scores: pl.DataFrame | None = None,
    *,
    signal: str | None = None,
    adversarial: AdversarialConfig | None = None,
) -> pl.DataFrame:
    """One row per user of the last so many days: replies, conversations, positives per signal, whether they came back the
    day after their first one, first_day, and what they did before, `pre_*`. Raises DataError without such replies.

    Replies count as in an A/B readout of the logs' own arms: those whose label of `signal` (the first one) is known, and not
    those of users whom `adversarial` condemns on one of the days. `pre_loves` is that signal's, as CUPED expects it. scores:
    MESSAGE_KEY and live_probability of replies that P[signal] has scored; those from before are summed as `pre_p_<signal>`.
    """
    names = [c.removeprefix(LABEL) for c in replies.collect_schema().names() if c.startswith(LABEL)]
    signal = signal or (names[0] if names else "")
    if signal in names:
        names = [signal, *(name for name in names if name != signal)]
    dated = replies.drop_nulls(["user_id", "created_at"])
    known = pl.col(f"{LABEL}{signal}").is_not_null() if signal in names else pl.lit(False)
    last = dated.filter(known).select(pl.col("created_at").max().dt.date()).collect(engine="streaming").item()
    if last is None:
        raise DataError(
            f"logs: found no reply with a user, a day and a known label of {signal!r}, expected some. Materialise "
            "validated_replies of a source with times."
        )
    start = last - timedelta(days=days - 1)
    late = pl.col("created_at").dt.date() >= start
    flagged = pl.Series("user_id", [], dtype=pl.String)
    if adversarial is not None:
        flagged = adversarial_users(replies, adversarial, signal, dated.filter(known, late))
    if scores is not None:
        dated = dated.join(scores.lazy().select(*MESSAGE_KEY, "live_probability"), on=MESSAGE_KEY, how="left")
    score = pl.lit(None, pl.Float64) if scores is None else pl.col("live_probability")
    marked = {n: (known & (pl.col(f"{LABEL}{n}") == 1)).fill_null(False) for n in names}
    marked |= {f"{n}{LABELLED}": known & pl.col(f"{LABEL}{n}").is_not_null() for n in names}
    day = pl.col("created_at").dt.date()
    rows = dated.filter(~pl.col("user_id").is_in(flagged.implode())).select(
        "user_id", "conversation_id", day=day, score=score, known=known, **marked
    )
    table = rows.collect(engine="streaming")
    return _with_history(table.filter(pl.col("day") >= start), table.filter(pl.col("day") < start), names, scores)


def _with_history(
    test: pl.DataFrame, before: pl.DataFrame, names: list[str], scores: pl.DataFrame | None
) -> pl.DataFrame:
    talks = pl.col("conversation_id").filter("known").n_unique()
    users = test.group_by("user_id").agg(
        replies=pl.col("known").sum(), conversations=talks, first_day=pl.col("day").min(),
        returned_next_day=(pl.col("day") == pl.col("day").min() + timedelta(days=1)).any(),
        **{n: pl.col(n).sum() for name in names for n in (name, f"{name}{LABELLED}")},
    )  # fmt: skip
    pre = before.group_by("user_id").agg(
        pre_replies=pl.col("known").sum(), pre_loves=pl.col(names[0]).sum(), pre_conversations=talks,
        pre_days=pl.col("day").n_unique(), **{f"pre_{n}": pl.col(n).sum() for n in names[1:]},
        **({} if scores is None else {f"pre_p_{names[0]}": pl.col("score").sum()}),
    )  # fmt: skip
    joined = users.filter(pl.col("replies") > 0).join(pre, on="user_id", how="left")
    return joined.with_columns(pl.col("^pre_.*$").fill_null(0)).sort("user_id")


def days_needed(first_days: pl.Series, users: int, window: int) -> float | None:
    """Days until so many different users have come, as they came in the window: later ones at the rate of its last third."""
    start = first_days.min()
    if start is None:
        return None
    offset = (first_days - start).dt.total_days().to_numpy()
    seen = np.cumsum(np.bincount(offset, minlength=window))
    reached = np.flatnonzero(seen >= users)
    if len(reached):
        return float(reached[0] + 1)
    third = max(window // 3, 1)
    rate = (seen[-1] - seen[-1 - third]) / third if window > third else seen[-1] / window
    return None if rate <= 0 else float(window + np.ceil((users - seen[-1]) / rate))


def aa_test(users: pl.DataFrame, config: ReadoutConfig, *, runs: int, seed: int) -> pl.DataFrame:
    """One row per metric that the users allow: in how many of so many random splits the readout called a difference.

    Metrics are cut where the plan cuts them. keeps: the exact 95% interval of that share reaches down to the level, so
    nothing speaks for more false calls.
    """
    from scipy.stats import binomtest

    metrics = measured(config.judged, users)
    called = dict.fromkeys((m.name for m in metrics), 0)
    done = dict.fromkeys((m.name for m in metrics), 0)
    rng = np.random.default_rng(seed)
    level = 1 - config.confidence
    for _ in range(runs):
        ours = pl.Series(rng.permutation(len(users)) % 2 == 0)
        arm, base = Arm(users.filter(ours)), Arm(users.filter(~ours))
        for metric in metrics:
            row = compare_metric(metric, arm, base, config)
            if row is not None and min(row["events_control"], row["events_treatment"]) > 0:
                done[metric.name] += 1
                called[metric.name] += row["p_value"] < level
    rows: list[dict[str, Any]] = []
    for metric in metrics:
        count, of = called[metric.name], done[metric.name]
        interval = binomtest(count, of).proportion_ci(0.95, "exact") if of else None
        rows.append(
            {"metric": metric.name, "runs": of, "called": count, "share": count / of if of else None,
             "low": float(interval.low) if interval else None, "high": float(interval.high) if interval else None,
             "keeps": bool(interval.low <= level) if interval else None}
        )  # fmt: skip
    return pl.DataFrame(rows, schema=AA_SCHEMA)
