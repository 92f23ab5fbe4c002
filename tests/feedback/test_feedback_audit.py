"""The signal audit: estimates against numbers known by construction, verdicts with their reasons, and the page."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from rluf_assets.errors import ConfigError
from rluf_assets.feedback.audit import audit_signals
from rluf_assets.feedback.config import SignalAuditConfig
from rluf_assets.feedback.lexicon import sentiment
from rluf_assets.feedback.schemas import label_column
from rluf_assets.feedback.statistics import correlation, partial_correlation, proportion, ratio
from tests.feedback.logs import START, clean_logs, validated

SIGNALS = ("up", "down", "click", "rare")
POLARITY = {"up": 1, "down": -1, "click": 1, "rare": 1}


def _world(seed: int = 0, users: int = 1500, days: int = 40) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Replies and user messages of users whose satisfaction decides `up` and whether they come back soon.

    `down` is its opposite, `click` follows activity alone, `rare` is rare; three bots set `up` on everything.
    """
    rng = np.random.default_rng(seed)
    rows, said = [], []
    for user in range(users):
        bot = user < 3
        day, happy = int(rng.integers(0, 10)), rng.random()
        for _ in range(6):
            if day >= days:
                break
            replies = 25 if bot else int(rng.integers(1, 6))
            for turn in range(replies):
                up, down = rng.random() < (1.0 if bot else 0.25 * happy), rng.random() < 0.25 * (1 - happy)
                conversation, at = f"u{user}d{day}", START + timedelta(days=day, seconds=turn)
                labels = (up, down and not up and not bot, rng.random() < 0.1 and not bot, rng.random() < 0.001)
                rows.append((f"{conversation}-{turn}", conversation, f"u{user}", turn, at, f"case{user % 2}",
                             *map(int, labels)))  # fmt: skip
                words = "thanks, great" if up else "that is wrong" if labels[1] else "go on"
                said.append((conversation, turn + 1, "user", words))
            day += int(rng.integers(1, 4)) if rng.random() < happy else int(rng.integers(15, 25))
            happy = rng.random()
    columns = ["message_id", "conversation_id", "user_id", "turn_index", "created_at", "use_case"]
    replies_frame = pl.DataFrame(rows, schema=[*columns, *map(label_column, SIGNALS)], orient="row")
    messages = pl.DataFrame(said, schema=["conversation_id", "turn_index", "role", "content"], orient="row")
    types = {"created_at": pl.Datetime("us", "UTC"), "turn_index": pl.Int32}
    return replies_frame.cast(types), messages.cast({"turn_index": pl.Int32})


@pytest.fixture(scope="module")
def table() -> dict[str, dict]:
    replies, messages = _world()
    config = SignalAuditConfig(signals=SIGNALS, polarity=POLARITY, min_positives=100)
    audit = audit_signals(replies.lazy(), messages.lazy(), config, seed=0)
    page = audit.page()
    assert "https://" not in page.split("</script>")[-1] and "<script src" not in page
    assert audit.conclusion in page.replace("&#x27;", "'")
    assert audit.by_day["offered_up"].sum() == replies.height == audit.by_use_case["replies"].sum()
    return {row["signal"]: row for row in audit.table.to_dicts()}


def test_each_signal_is_counted_over_the_replies_whose_label_of_it_is_known(table: dict[str, dict]) -> None:
    """Half of the labels of one signal are not known: its rate stays, and no other signal's figures change."""
    replies, messages = _world()
    known = pl.int_range(pl.len()) % 2 == 0
    half = replies.with_columns(pl.when(known).then(label_column("up")).alias(label_column("up")))
    audit = audit_signals(half.lazy(), messages.lazy(), SignalAuditConfig(signals=SIGNALS, polarity=POLARITY), seed=0)
    found = {row["signal"]: row for row in audit.table.to_dicts()}
    kept = half[label_column("up")].drop_nulls()
    assert found["up"]["offered"] == kept.len() and found["up"]["positives"] == kept.sum()
    assert audit.by_use_case["offered_up"].sum() == kept.len() == audit.by_day["offered_up"].sum()
    for name in ("offered", "positives", "coverage_replies"):
        assert found["click"][name] == table["click"][name]


def test_verdicts_follow_what_is_true_of_the_world(table: dict[str, dict]) -> None:
    verdicts = {signal: row["recommendation"] for signal, row in table.items()}
    assert verdicts == {"up": "use", "down": "use", "click": "use with care", "rare": "do not use"}
    assert (
        table["up"]["return_correlation_controlled_ci_low"] > 0 > table["down"]["return_correlation_controlled_ci_high"]
    )
    assert "users coming back" in table["up"]["reason"] and "users staying away" in table["down"]["reason"]
    assert table["rare"]["reason"].startswith("too rare")
    assert "cannot be told apart from chance" in table["click"]["reason"]


def test_activity_is_controlled_for(table: dict[str, dict]) -> None:
    click = table["click"]
    assert click["return_correlation_controlled_ci_low"] < 0 < click["return_correlation_controlled_ci_high"]


def test_volume_purity_and_adversarial_share(table: dict[str, dict]) -> None:
    replies, _ = _world()
    bots = replies.filter(pl.col("user_id").is_in(["u0", "u1", "u2"]))
    up = table["up"]
    assert up["positives"] == replies["label_up"].sum()
    assert up["adversarial_share"] == pytest.approx(bots["label_up"].sum() / up["positives"])
    honest = replies.filter(~pl.col("user_id").is_in(["u0", "u1", "u2"]))
    assert up["rate"] == pytest.approx(honest["label_up"].mean())
    assert up["rate_ci_low"] < up["rate"] < up["rate_ci_high"]
    assert up["purity"] == 1.0 and up["next_message_agreement"] > 0.9
    assert table["down"]["next_message_agreement"] > 0.9
    assert up["effective_positives"] == honest["label_up"].sum()


def test_ambiguous_and_adversarial_signals_are_named() -> None:
    replies, messages = _world(seed=1, users=300)
    both = replies.with_columns(label_down=pl.col("label_up"))
    config = SignalAuditConfig(signals=SIGNALS, polarity=POLARITY, min_positives=10)
    found = audit_signals(both.lazy(), messages.lazy(), config, seed=0).table.to_dicts()
    assert "ambiguous: 100%" in found[0]["reason"]
    only_bots = replies.with_columns(
        label_up=pl.col("label_up") * pl.col("user_id").is_in(["u0", "u1", "u2"]).cast(pl.Int64)
    )
    strict = config.model_copy(update={"min_positives": 1, "adversarial": config.adversarial})
    (row,) = (
        audit_signals(only_bots.lazy(), messages.lazy(), strict, seed=0)
        .table.filter(pl.col("signal") == "up")
        .to_dicts()
    )
    assert row["adversarial_share"] == 1.0 and row["recommendation"] == "do not use"


def test_without_times_returning_is_null_and_said_so() -> None:
    messages, reactions = clean_logs(days=3, love_rate=0.5, seed=3)
    none = pl.lit(None, pl.Datetime("us", "UTC"))
    log = validated(messages.with_columns(created_at=none), reactions.with_columns(reacted_at=none), time="none")
    config = SignalAuditConfig(signals=("love",), min_positives=1, adversarial={"min_shown": 9999})
    audit = audit_signals(log.replies.lazy(), log.messages.lazy(), config, seed=0)
    (row,) = audit.table.to_dicts()
    assert row["return_correlation"] is None and row["user_days"] == 0
    assert "cannot be told" in row["reason"]
    assert "Which signal" in audit.page()


def test_unknown_signal_and_missing_polarity() -> None:
    messages, reactions = clean_logs()
    log = validated(messages, reactions)
    with pytest.raises(ConfigError, match="signal 'thumbs_up': the replies have no such label"):
        audit_signals(log.replies.lazy(), log.messages.lazy(), SignalAuditConfig(), seed=0)
    with pytest.raises(ValidationError, match=r"polarity: no entry for \['wink'\]"):
        SignalAuditConfig(signals=("wink",))


def test_sentiment_lexicon() -> None:
    texts = pl.DataFrame(
        {"text": ["Thanks, GREAT!", "this is wrong", "good but wrong", "the weather", "notable", None]}
    )
    assert texts.select(sentiment(pl.col("text"))).to_series().to_list() == [1, -1, 0, 0, 0, None]


def test_clustered_interval_covers_at_its_level() -> None:
    """Users with 20 equal rows each: an interval that took rows as independent would be 4.5 times too narrow."""
    hits, runs = 0, 300
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        x, noise = rng.normal(size=200), rng.normal(size=200)
        y = 0.3 * x + np.sqrt(1 - 0.09) * noise
        estimate = correlation(np.repeat(x, 20), np.repeat(y, 20), np.repeat(np.arange(200), 20), 0.9)
        hits += estimate.low <= 0.3 <= estimate.high
    assert 0.85 < hits / runs < 0.95


def test_partial_correlation_takes_the_control_out() -> None:
    rng = np.random.default_rng(0)
    activity = rng.normal(size=4000)
    x, y = activity + rng.normal(size=4000), activity + rng.normal(size=4000)
    rows = np.arange(4000)
    assert correlation(x, y, rows, 0.95).value == pytest.approx(0.5, abs=0.04)
    apart = partial_correlation(x, y, activity[:, None], rows, 0.95)
    assert apart.low < 0 < apart.high
    assert np.isnan(partial_correlation(activity, y, activity[:, None], rows, 0.95).value)  # nothing is left of x


def test_ratio_and_proportion() -> None:
    part, whole = np.array([1.0, 0.0, 2.0, 1.0]), np.array([10.0, 10.0, 10.0, 10.0])
    estimate = ratio(part, whole, 0.95)
    assert estimate.value == pytest.approx(0.1) and estimate.low < 0.1 < estimate.high
    wilson = proportion(8, 10, 0.95)
    assert (wilson.low, wilson.high) == (pytest.approx(0.4902, abs=1e-3), pytest.approx(0.9433, abs=1e-3))
    assert np.isnan(proportion(0, 0, 0.95).value)
