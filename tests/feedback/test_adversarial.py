"""Who is adversarial, by which signals and for how long: one rule, for training and for both arms of a test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from rluf_assets.errors import ConfigError
from rluf_assets.evaluation.config import ReadoutConfig
from rluf_assets.evaluation.exposures import with_adversarial
from rluf_assets.evaluation.logged_arms import ArmsConfig, exposures_of, launches_of, texts_of
from rluf_assets.evaluation.readout import read_out
from rluf_assets.feedback.config import AdversarialConfig, judging_signals
from rluf_assets.feedback.splits import user_table

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
SIGNALS = ("love", "thumbs_up", "thumbs_down", "copy", "regenerate")


def replies_of(days: dict[int, int], marks: dict[str, Any], user: str = "u", arm: str | None = None) -> pl.DataFrame:
    """So many replies on each day from 1 March; marks: a label for all, or a function of the day and the place in it."""
    rows = [
        {"user_id": user, "conversation_id": f"{user}{day}", "use_case": "chat", "experiment_arm": arm,
         "created_at": MARCH + timedelta(days=day, minutes=n),
         **{f"label_{s}": m(day, n) if callable(m := marks.get(s, 0)) else m for s in SIGNALS}}
        for day, many in days.items() for n in range(many)
    ]  # fmt: skip
    labels = {f"label_{s}": pl.Float64 if float in map(type, marks.values()) else pl.Int8 for s in SIGNALS}
    return pl.DataFrame(rows, schema_overrides={"experiment_arm": pl.String, **labels}, infer_schema_length=None)


def condemned(replies: pl.DataFrame, signal: str = "love", **config: Any) -> set[int]:
    """Days since 1 March that are condemned."""
    days = user_table(replies.lazy(), AdversarialConfig(**config), signal)[1]["day"]
    return {(day - MARCH.date()).days for day in days}


WEEK = dict.fromkeys(range(7), 10)


@pytest.mark.parametrize(
    ("marks", "signal", "found"),
    [
        ({"copy": 1, "regenerate": 1}, "love", False),  # works with every reply
        ({"love": 1}, "love", True),
        ({"thumbs_down": 1}, "love", True),
        ({"love": lambda day, n: n % 2, "thumbs_down": lambda day, n: 1 - n % 2}, "love", True),
        ({"thumbs_up": 1}, "love", False),  # neither trained on nor its opposite
        ({"love": lambda day, n: n % 2}, "love", False),
        ({"copy": 1}, "copy", True),  # copies are what is learned
        ({"love": None, "thumbs_down": None}, "love", False),
        ({"love": float("nan")}, "love", False),
        # Of what is known of the week nearly all is love; what is in doubt is no evidence that any of it was honest.
        ({"love": lambda day, n: 1 if n < 5 else None}, "love", True),
        # A signal of which the log knows nothing does not hide that others were silent.
        ({"love": lambda day, n: int(n < 5), "thumbs_down": None}, "love", False),
        ({"love": 1, "thumbs_down": None}, "love", True),
    ],
)
def test_who_judges_nearly_everything(marks: dict[str, Any], signal: str, found: bool) -> None:
    assert condemned(replies_of(WEEK, marks), signal) == (set(WEEK) if found else set())


def test_signals_are_configured_and_must_exist() -> None:
    copier = replies_of(WEEK, {"copy": 1})
    assert condemned(copier, signals=("copy",)) == set(WEEK) and not condemned(copier)
    with pytest.raises(ConfigError, match=r"no label of \['clap'\]"):
        condemned(copier, signals=("clap",))
    assert judging_signals("boring", ("boring", "fun", "copy"), {"boring": -1, "fun": 1, "copy": 1}) == (
        "boring",
        "fun",
    )


def test_a_week_of_spam_in_march_is_forgotten_in_may() -> None:
    """Ten loves a day for a week; before and after it two replies a day, now and then loved."""
    days = {**dict.fromkeys(range(92), 2), **WEEK_TWO}
    replies = replies_of(days, {"love": lambda day, n: int(day in WEEK_TWO or (day + n) % 5 == 0)})
    found = condemned(replies)
    assert set(WEEK_TWO) <= found and max(found) < 14 + 28 and not found & set(range(61, 92))  # May
    # The narrower the window, the nearer to the spree.
    assert condemned(replies, trailing_days=7) <= set(range(2, 20))
    assert not condemned(replies, trailing_days=28, min_shown=200)
    timeless = replies.with_columns(created_at=pl.lit(None, pl.Datetime("us", "UTC")))
    assert user_table(timeless.lazy(), AdversarialConfig(), "love")[1].is_empty()
    whole = user_table(timeless.lazy(), AdversarialConfig(min_reacted_share=0.2), "love")[1]
    assert whole.rows() == [("u", None)]


WEEK_TWO = dict.fromkeys(range(7, 14), 10)


def test_the_first_loves_of_a_spree_are_condemned_with_it() -> None:
    assert condemned(replies_of(dict.fromkeys(range(10), 4), {"love": 1})) == set(range(10))


def arms() -> pl.DataFrame:
    """Twenty honest users an arm; a bot in a; one in both arms, with few replies in a; one whose spree is long past."""
    honest = {"love": lambda day, n: int(n == 0)}
    frames = [replies_of(WEEK, honest, f"{arm}{k}", arm) for arm in "ab" for k in range(20)]
    frames += [replies_of(WEEK, {"love": 1}, "bot", "a")]
    frames += [replies_of({0: 5}, {}, "both", "a"), replies_of(WEEK, {"love": 1}, "both", "b")]
    frames += [
        replies_of(dict.fromkeys(range(-90, -80), 10), {"love": 1}, "old"),
        replies_of(WEEK, honest, "old", "a"),
    ]
    return pl.concat(frames).with_columns(message_id=pl.int_range(pl.len()).cast(pl.String))


def test_arms_of_the_logs_are_filtered_alike() -> None:
    config = ArmsConfig(signal="love", baseline="a")
    exposures = exposures_of(arms().lazy(), config)
    flagged = exposures.filter("adversarial").select("user_id", "arm").rows()
    assert set(flagged) == {("bot", "a"), ("both", "a"), ("both", "b")}
    judged = arms().filter(~pl.col("user_id").is_in(["bot", "both"]))
    rows = judged.select(
        "message_id",
        "conversation_id",
        "user_id",
        label=pl.col("label_love") == 1,
        prompt=pl.lit("p"),
        completion=pl.lit("c"),
    )
    row = launches_of(exposures, texts_of(arms().lazy(), rows.lazy(), exposures), config).row(0, named=True)
    assert (row["treatment_users"], row["control_users"], row["left_out"]) == (20, 21, 0)
    by_arm = {str(part["arm"][0]): part for part in exposures.partition_by("arm")}
    found = read_out(by_arm, ReadoutConfig(baseline="a"))
    row = found.row("b", "love_rate")
    assert row is not None and (row["n_treatment"], row["n_control"]) == (20, 21) and row["lift"] == pytest.approx(0)
    assert exposures["first_exposed_at"].dt.date().min() == MARCH.date()
    offered = pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.lit(0)).cast(pl.Int8)
    thumbs = exposures_of(arms().with_columns(label_thumbs_down=offered).lazy(), config)
    assert thumbs["love_labelled"].sum() == thumbs["replies"].sum() > thumbs["thumbs_down_labelled"].sum() > 0
    unjudged = config.model_copy(update={"adversarial": AdversarialConfig(enabled=False)})
    assert "adversarial" not in exposures_of(arms().lazy(), unjudged).columns


@pytest.mark.parametrize("dated", [True, False])
def test_exposed_replies_tell_who_is_adversarial_in_every_arm(dated: bool) -> None:
    rows = arms().filter(pl.col("experiment_arm").is_not_null())
    day = (pl.col("created_at") - MARCH).dt.total_days()
    rows = rows.with_columns(day=day, replies=pl.lit(1), love="label_love", reply_id="message_id")
    rows = rows if dated else rows.drop("day")
    replies = {str(part["experiment_arm"][0]): part for part in rows.partition_by("experiment_arm")}
    exposures = {n: part.group_by("user_id").agg(pl.col("replies", "love").sum()) for n, part in replies.items()}
    found = with_adversarial(exposures, replies, AdversarialConfig())
    flagged = {(name, user) for name, frame in found.items() for user in frame.filter("adversarial")["user_id"]}
    assert flagged == {("a", "bot"), ("a", "both"), ("b", "both")}
    row = read_out(exposures, ReadoutConfig(baseline="a"), replies=replies).row("b", "love_rate")
    assert row is not None and (row["n_treatment"], row["n_control"]) == (20, 21)  # `both` is in neither
    # What one arm does not tell is told of none.
    assert with_adversarial(exposures, {"a": replies["a"]}, AdversarialConfig()) is exposures
    blind = {**replies, "b": replies["b"].drop("love")}
    assert with_adversarial(exposures, blind, AdversarialConfig()) is exposures
