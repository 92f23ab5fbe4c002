"""A newcomer's dated log, from `rluf init` to a signal set: undated marks, a bot's greetings, days of four conversations.

Nothing is said but a layout and the files of pairs. `rluf update` makes what days bring; the models behind it do not read logs.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from rluf_assets.lake import Lake

DAYS, PER_DAY, PAIRS = 40, 4, 80
FIRST = datetime(2026, 3, 1, 9, tzinfo=UTC)
TOPICS = ("garden", "soup", "train", "guitar", "tax form", "sourdough", "photo", "wifi", "holiday")
WARM = (
    "I would start with the {} and take it slowly, you will do well.",
    "Good question about the {}. Try this first.",
)
DRY = ("The {} depends.", "It is the {}, as the manual says.")
SETTINGS = {
    "profile": "tiny",
    "production": {
        "kind": "logged", "first_day": FIRST.date().isoformat(), "days": DAYS, "log_format": "messages",
        "messages": "chats.jsonl", "reactions": "chats.jsonl",
        "preferences": {"helpfulness": "pairs/helpfulness.jsonl", "safety": "pairs/safety.jsonl"},
    },
    "validated_replies": {"exposure": "all_shown"},
    "signal_set": {"holdout_days": 14},
}  # fmt: skip


def rluf(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rluf_assets.cli", *words], capture_output=True, text=True, check=False
    )


def write_logs(home: Path) -> dict[str, int]:
    """The log and the pairs; returns message id -> mark of love, of every reply that was asked for."""
    chance, marks, lines = random.Random(7), dict[str, int](), []
    for day in range(DAYS):
        for nth in range(PER_DAY):
            # New people come in the last two weeks; a conversation is one person's, and the bot's.
            user = f"v{chance.randrange(40)}" if day >= DAYS - 14 and nth >= 2 else f"u{chance.randrange(60)}"
            at, name = FIRST + timedelta(days=day, hours=2 * nth), f"{day}-{nth}"
            said: list[dict[str, Any]] = [{"id": f"{name}-hello", "role": "assistant", "user": "bot",
                                           "content": "Hello, how can I help?", "created_at": at.isoformat()}]  # fmt: skip
            for turn in range(chance.randrange(2, 5)):
                topic, warm = chance.choice(TOPICS), chance.random() < 0.5
                reply = f"{name}-{turn}-a"
                marks[reply] = int(chance.random() < (0.3 if warm else 0.08))
                question = f"Can you help with my {topic}, number {chance.randrange(999)}?"
                at += timedelta(minutes=1)
                said.append({"id": f"{name}-{turn}-u", "role": "user", "user": user, "content": question,
                             "created_at": at.isoformat()})  # fmt: skip
                said.append({"id": reply, "role": "assistant", "user": "bot", "marks": {"love": marks[reply]},
                             "content": chance.choice(WARM if warm else DRY).format(topic),
                             "created_at": (at + timedelta(seconds=9)).isoformat()})  # fmt: skip
            lines.append(json.dumps({"conversation_id": name, "messages": said}))
    (home / "chats.jsonl").write_text("\n".join(lines) + "\n")
    (home / "pairs").mkdir()
    for objective in ("helpfulness", "safety"):
        pairs = [
            {"prompt": f"And the {topic}, case {nth}?", "chosen": WARM[0].format(topic), "rejected": DRY[0].format(topic)}
            for nth, topic in enumerate(chance.choices(TOPICS, k=PAIRS))
        ]  # fmt: skip
        (home / "pairs" / f"{objective}.jsonl").write_text("\n".join(map(json.dumps, pairs)) + "\n")
    return marks


@pytest.mark.slow
def test_a_dated_log_with_undated_marks_becomes_a_signal_set(tmp_path: Path) -> None:
    home = tmp_path / "my-project"
    assert rluf("init", str(home)).returncode == 0
    marks = write_logs(home)

    def run(undated: dict[str, str]) -> subprocess.CompletedProcess[str]:
        settings = {**SETTINGS, "validated_replies": {"exposure": "all_shown", **undated}}
        (home / "rluf.yaml").write_text(yaml.safe_dump(settings))
        return rluf("update", "--home", str(home))

    refused = run({})
    assert refused.returncode
    told = " ".join((refused.stdout + refused.stderr).split())
    assert f"validated_replies.undated_reactions is not set, and {len(marks)} of {len(marks)} reactions" in told
    done = run({"undated_reactions": "at_message"})
    assert done.returncode == 0, done.stdout + done.stderr

    lake = Lake(str(home / "lake"))
    days = [
        lake.current("validated_replies", day).path("replies.parquet") for day in lake.partitions("validated_replies")
    ]
    assert len(days) == DAYS
    replies = pl.read_parquet(days, hive_partitioning=False)
    assert replies.height == len(marks)  # no greeting is a reply, and no reply is the bot's
    assert "bot" not in replies["user_id"]
    last_day = {reply: None for reply in marks if reply.startswith(f"{DAYS - 1}-")}  # its window has not closed
    assert dict(replies.select("message_id", "label_love").iter_rows()) == marks | last_day

    signal_set = lake.current("signal_set")
    assert signal_set.rows["train"] > 0 and signal_set.rows["holdout"] > 0
