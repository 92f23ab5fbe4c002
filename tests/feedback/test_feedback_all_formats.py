"""One log in every format that can carry it, written in any way, gives the same labels and contexts, and loses no record."""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.feedback.config import ContractConfig, IngestConfig
from rluf_assets.feedback.contract import validate
from rluf_assets.feedback.reading import read_day
from rluf_assets.feedback.windows import ConversationPool
from tests.feedback.logs import START

Record = dict[str, Any]
SIGNALS = ("thumbs_up", "thumbs_down")
LAYOUT = {"scores": {"fb": {"up": "thumbs_up", "down": "thumbs_down", "down_to": -1}}}


class Reply(NamedTuple):
    """A question and its reply; `ratings`: 1 or -1 and the minutes after the reply, a state each."""

    conversation: str
    user: str
    name: str
    turn: int
    asked: str
    said: str
    at: int
    ratings: list[tuple[int, int]]


def _log(rng: Random) -> list[Reply]:
    odd = ["é", "😀", "\u2028", '"', "\\", "{", "<b>"]
    replies = []
    for n in range(3):
        start = int(START.timestamp()) + 3600 * rng.randrange(40)
        for turn in range(rng.randrange(1, 4)):
            name = f"c{n}r{turn}"
            times = sorted(rng.sample(range(1, 50), rng.choice([0, 1, 1, 2])))
            replies.append(Reply(f"c{n}", f"u{n % 2}", name, turn, f"q {name} {rng.choice(odd)}", f"a {name} {rng.choice(odd)}",
                                 start + 90 * turn, [(rng.choice([1, -1]), at) for at in times]))  # fmt: skip
    return replies


def _iso(seconds: int) -> str:
    return (START + timedelta(seconds=seconds - int(START.timestamp()))).strftime("%Y-%m-%dT%H:%M:%SZ")


def _history(log: list[Reply], reply: Reply) -> list[Record]:
    before = [one for one in log if one.conversation == reply.conversation and one.turn < reply.turn]
    said = [(role, text) for one in before for role, text in (("user", one.asked), ("assistant", one.said))]
    return [{"role": role, "content": text} for role, text in [*said, ("user", reply.asked)]]


def _rated(log: list[Reply], states: bool = True) -> list[tuple[Reply, int, int, int]]:
    """Reply, rating, when it was given and when it was changed: a record for each state, or for the last."""
    return [(reply, rating, reply.at + 5 + 60 * reply.ratings[0][1], reply.at + 5 + 60 * at)
            for reply in log for rating, at in (reply.ratings if states else reply.ratings[-1:])]  # fmt: skip


def _canonical(log: list[Reply]) -> tuple[list[Record], list[Record]]:
    said = [{"conversation_id": one.conversation, "message_id": one.name + role[0], "turn_index": one.turn, "role": role,
             "content": text, "user_id": one.user, "created_at": _iso(at)}
            for one in log
            for role, text, at in (("user", one.asked, one.at), ("assistant", one.said, one.at + 5))]  # fmt: skip
    given = [{"reaction_id": one.name + signal, "message_id": f"{one.name}a", "user_id": one.user, "signal": signal,
              "value": int(rating == wanted), "reacted_at": _iso(first), "updated_at": _iso(last)}
             for one, rating, first, last in _rated(log) for signal, wanted in zip(SIGNALS, (1, -1), strict=True)]  # fmt: skip
    return said, given


def _messages(log: list[Reply]) -> tuple[list[Record], list[Record]]:
    last = {one.name: (rating, at) for one, rating, _, at in _rated(log, states=False)}
    lines: dict[str, Record] = {}
    for one in log:
        line = lines.setdefault(one.conversation, {"id": one.conversation, "user": one.user, "messages": []})
        rating, at = last.get(one.name, (None, 0))
        marks = [{"signal": SIGNALS[rating == -1], "reacted_at": at}] if rating else []
        line["messages"] += [{"role": "user", "content": one.asked, "created_at": one.at, "reactions": []},
                             {"role": "assistant", "content": one.said, "created_at": one.at + 5,
                              "reactions": marks}]  # fmt: skip
    return list(lines.values()), list(lines.values())


def _langfuse(log: list[Reply]) -> tuple[list[Record], list[Record]]:
    calls = [{"id": one.name, "traceId": f"t-{one.name}", "type": "GENERATION", "startTime": _iso(one.at),
              "endTime": _iso(one.at + 5), "userId": one.user, "sessionId": one.conversation, "input": _history(log, one),
              "output": one.said} for one in log]  # fmt: skip
    scores = [{"id": f"s-{one.name}", "traceId": f"t-{one.name}", "observationId": one.name, "name": "fb", "value": rating,
               "source": "API", "timestamp": _iso(first), "updatedAt": _iso(last)}
              for one, rating, first, last in _rated(log)]  # fmt: skip
    return calls, scores


def _langsmith(log: list[Reply]) -> tuple[list[Record], list[Record]]:
    runs = [{"id": one.name, "trace_id": one.name, "run_type": "chain", "start_time": _iso(one.at),
             "end_time": _iso(one.at + 5), "inputs": {"messages": _history(log, one)}, "outputs": {"output": one.said},
             "extra": {"metadata": {"thread_id": one.conversation, "user_id": one.user}}} for one in log]  # fmt: skip
    given = [{"id": f"f-{one.name}", "key": "fb", "score": rating, "run_id": one.name, "created_at": _iso(first),
              "modified_at": _iso(last)} for one, rating, first, last in _rated(log)]  # fmt: skip
    return runs, given


def _otel(log: list[Reply]) -> tuple[list[Record], list[Record]]:
    spans = [{"name": "chat", "trace_id": f"t{one.name}", "span_id": one.name, "start_time": _iso(one.at),
              "end_time": _iso(one.at + 5),
              "attributes": {"gen_ai.prompt": json.dumps(_history(log, one)), "gen_ai.completion": one.said,
                             "user.id": one.user, "session.id": one.conversation}} for one in log]  # fmt: skip
    events = [{"event_name": "gen_ai.evaluation.result", "trace_id": f"t{one.name}", "span_id": one.name,
               "timestamp": _iso(last),
               "attributes": {"gen_ai.evaluation.name": "fb", "gen_ai.evaluation.score.value": rating}}
              for one, rating, _, last in _rated(log, states=False)]  # fmt: skip
    return spans, events


def _open_webui(log: list[Reply]) -> tuple[list[Record], list[Record]]:
    chats: dict[str, dict[str, Record]] = {}
    users = {one.conversation: one.user for one in log}
    for one in log:
        tree = chats.setdefault(one.conversation, {})
        up = f"{one.conversation}r{one.turn - 1}a" if one.turn else None
        tree[f"{one.name}q"] = {"role": "user", "content": one.asked, "timestamp": one.at, "parentId": up}
        tree[f"{one.name}a"] = {
            "role": "assistant",
            "content": one.said,
            "timestamp": one.at + 5,
            "parentId": f"{one.name}q",
        }
    exported = [
        {"id": name, "user_id": users[name], "chat": {"history": {"messages": tree}}} for name, tree in chats.items()
    ]
    given = [{"id": f"f-{one.name}", "user_id": one.user, "type": "rating", "data": {"rating": rating},
              "meta": {"chat_id": one.conversation, "message_id": f"{one.name}a"}, "created_at": first, "updated_at": last}
             for one, rating, first, last in _rated(log)]  # fmt: skip
    return exported, given


WRITERS: dict[str, Callable[[list[Reply]], tuple[list[Record], list[Record]]]] = {
    "canonical": _canonical, "messages": _messages, "langfuse": _langfuse, "langsmith": _langsmith, "otel": _otel,
    "open_webui": _open_webui,
}  # fmt: skip


def _bytes(records: list[Record], ending: str, rng: Random) -> bytes:
    lines = "".join(json.dumps(one, ensure_ascii=rng.random() < 0.5) + "\n" for one in records)
    match ending:
        case "jsonl.gz":
            return gzip.compress(lines.encode())
        case "bom.jsonl":
            return codecs.BOM_UTF8 + lines.replace("\n", "\r\n").encode()
        case "wide.jsonl":
            return lines.encode("utf-16")
        case "page.json":
            return json.dumps({"data": records, "meta": {"page": 1}}, indent=1).encode()
        case "json":
            return json.dumps(records).encode()
    return lines.encode()


ENDINGS = ("jsonl", "jsonl.gz", "bom.jsonl", "wide.jsonl", "page.json", "json")


def _read(records: list[Record], table: str, log_format: str, folder: Path, rng: Random) -> pl.DataFrame:
    """The records in one file or two, in any order, written in any way."""
    ending, cut = rng.choice(ENDINGS), rng.randrange(len(records) + 1)
    shuffled = rng.sample(records, len(records))
    for n, part in enumerate((shuffled[:cut], shuffled[cut:])):
        (folder / f"{table}-{n}.{ending}").write_bytes(_bytes(part, ending, rng))
    source = f"{folder}/{table}-*.{ending}"
    config = {"format": log_format, "table": table, "source": source, "layout": LAYOUT}
    found = read_day(IngestConfig.model_validate(config), folder / f"{table}.parquet", f"{folder}/lake/raw/d/f")
    assert found.records == len(records) and not found.ignored
    return pl.read_parquet(folder / f"{table}.parquet")


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**9))
def test_one_log_in_every_format(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = Random(seed)
    log = _log(rng)
    wanted = {}
    for one in log:
        rating = one.ratings[-1][0] if one.ratings else 0
        wanted[one.conversation, one.said] = (
            int(rating == 1),
            int(rating == -1),
            [m["content"] for m in _history(log, one)],
        )
    for log_format in rng.sample(sorted(WRITERS), 3):
        folder = tmp_path_factory.mktemp(log_format)
        messages, reactions = WRITERS[log_format](log)
        if log_format != "messages":  # exported again: windows overlap at their seam
            messages, reactions = [*messages, *messages[:1]], [*reactions, *reactions[:1]]
        said = _read(messages, "messages", log_format, folder, rng)
        given_ = _read(reactions, "reactions", log_format, folder, rng)
        config = ContractConfig(signals=SIGNALS, exposure="all_shown", attribution_window_h=2)
        made = validate(said.lazy(), given_.lazy(), config)
        pool = ConversationPool(made.replies["conversation_id"], made.messages.lazy())
        found = {
            (row["conversation_id"], row["content"]): (row["label_thumbs_up"], row["label_thumbs_down"],
                                                       [one["content"] for one in row["prompt"]])
            for row in pool.contexts(made.replies, 10).iter_rows(named=True)
        }  # fmt: skip
        assert found == wanted, log_format
        assert set(made.quarantine["defect"]) <= {"superseded", "duplicate_id"}
