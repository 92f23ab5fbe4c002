"""Small canonical logs for the tests: seeded, clean by construction, and a plain-Python reading of what they mean."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.feedback.config import ContractConfig
from rluf_assets.feedback.contract import Validated, validate
from rluf_assets.feedback.schemas import MESSAGES, REACTIONS

START = datetime(2026, 1, 1, tzinfo=UTC)
SIGNALS = ("love", "thumbs_down")


def clean_logs(
    *, days: int = 1, users_per_day: int = 20, seed: int = 0, love_rate: float = 0.1, max_turns: int = 4
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Messages and reactions without a defect; every user has two conversations a day, and may come back later."""
    rng = np.random.default_rng(seed)
    messages, reactions = [], []
    for day in range(days):
        users = range(max(0, day - 3) * users_per_day, (day + 1) * users_per_day)
        for user in users:
            if user < day * users_per_day and rng.random() < 0.5:
                continue
            for visit in range(2):
                conversation = f"c{day:02d}-{user:04d}-{visit}"
                at = START + timedelta(days=day, minutes=int(rng.integers(0, 1300)))
                for turn in range(int(rng.integers(1, max_turns + 1))):
                    asked, answered = at + timedelta(seconds=20 * turn), at + timedelta(seconds=20 * turn + 5)
                    shared = {"conversation_id": conversation, "turn_index": turn, "user_id": f"u{user:04d}"}
                    about = {
                        "policy_version": "p1",
                        "experiment_arm": None,
                        "use_case": f"case{user % 3}",
                        "locale": "en",
                    }
                    words = f"{conversation} {turn}"
                    reply = f"{conversation}-{turn}-a"
                    messages.append(
                        shared | about | {"message_id": f"{conversation}-{turn}-u", "role": "user", "created_at": asked,
                                          "content": f"question {words}", "reactions_shown": None}
                    )  # fmt: skip
                    messages.append(
                        shared | about | {"message_id": reply, "role": "assistant", "created_at": answered,
                                          "content": f"answer {words}", "reactions_shown": True}
                    )  # fmt: skip
                    for signal in SIGNALS:
                        if rng.random() < love_rate:
                            reactions.append(
                                {"reaction_id": f"{reply}-{signal}", "message_id": reply, "user_id": f"u{user:04d}",
                                 "signal": signal, "value": 1, "reacted_at": answered + timedelta(seconds=3),
                                 "source": "app"}
                            )  # fmt: skip
    return pl.DataFrame(messages, schema=dict(MESSAGES)), pl.DataFrame(reactions, schema=dict(REACTIONS))


def validated(messages: pl.DataFrame, reactions: pl.DataFrame, **settings: object) -> Validated:
    """The whole log validated as one partition, all windows closed."""
    config = ContractConfig.model_validate({"signals": SIGNALS, **settings})
    return validate(messages.lazy(), reactions.lazy(), config)


def day_of(frame: pl.DataFrame, column: str, day: date) -> pl.LazyFrame:
    """The rows of one UTC day."""
    return frame.lazy().filter(pl.col(column).dt.date() == day)


def paths(messages: pl.DataFrame) -> dict[str, list[str]]:
    """Id of each reply that was not logged as unoffered -> the texts on its path from the root."""
    known = {(row["conversation_id"], row["message_id"]): row for row in messages.to_dicts()}

    def path(row: dict[str, Any]) -> list[str]:
        above = known.get((row["conversation_id"], row["parent_id"]))
        return [*(path(above) if above else []), row["content"]]

    replies = [row for row in known.values() if row["role"] == "assistant" and row["reactions_shown"] is None]
    return {row["message_id"]: path(row) for row in replies}
