"""Conversations from validated logs, as token ids with the positions a policy learns from (its own replies)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from rluf_assets.chat import Message
from rluf_assets.errors import DataError
from rluf_assets.feedback.config import IngestConfig
from rluf_assets.feedback.ingest import read_table
from rluf_assets.feedback.sources import structural_errors
from rluf_assets.policy.config import Corpus
from rluf_assets.policy.prompts import PromptEncoder

Conversation = list[Message]


@dataclass(frozen=True)
class Example:
    """Token ids of one conversation and, for each, whether it belongs to a reply (or its end token)."""

    token_ids: list[int]
    learned: list[bool]


def load_conversations(folders: Sequence[Path], limit: int, seed: int) -> list[Conversation]:
    """At most `limit` conversations, a seeded sample in random order, from `messages.parquet` of each folder.

    A conversation that runs past midnight is put together again. Raises DataError if there is none.
    """
    files = [folder / "messages.parquet" for folder in folders]
    missing = [str(file) for file in files if not file.exists()]
    if missing or not files:
        raise DataError(f"base policy: expected messages.parquet in every folder of logs, missing: {missing or 'all'}.")
    return sample_conversations(pl.scan_parquet(files), limit, seed, f"{len(files)} folders of logs")


def load_corpus(corpus: Corpus, source: str, limit: int, seed: int) -> list[Conversation]:
    """The same of a corpus, which lies at `source`. Raises DataError for a file that is not what its format says."""
    config = IngestConfig(table="messages", format=corpus.format, source=source, layout=corpus.layout)
    with structural_errors(source):
        return sample_conversations(read_table(config).collect(engine="streaming").lazy(), limit, seed, source)


def sample_conversations(messages: pl.LazyFrame, limit: int, seed: int, where: str) -> list[Conversation]:
    """At most `limit` conversations of canonical messages, a seeded sample in random order; only turns with a reply.

    Raises DataError if there is none.
    """
    ids = messages.select(pl.col("conversation_id").unique()).collect().to_series().sort().to_list()
    random.Random(seed).shuffle(ids)
    chosen = pl.DataFrame({"conversation_id": ids[:limit], "place": range(len(ids[:limit]))})
    turns = (
        messages.select("conversation_id", "turn_index", "role", "content")
        .join(chosen.lazy(), on="conversation_id")
        .group_by("place", "turn_index")
        .agg(
            pl.col("content").filter(pl.col("role") == "user").first().alias("user"),
            pl.col("content").filter(pl.col("role") == "assistant").first().alias("reply"),
        )
        .drop_nulls()
        .sort("place", "turn_index")
        .group_by("place", maintain_order=True)
        .agg("user", "reply")
        .collect()
    )
    if turns.is_empty():
        raise DataError(f"base policy: {where}: {len(ids)} conversations, expected some with a reply. Bring in others.")
    return [
        [m for u, r in zip(users, replies, strict=True) for m in _turn(u, r)]
        for users, replies in turns.select("user", "reply").iter_rows()
    ]


def one_turn(conversation: Conversation, rng: random.Random) -> Conversation:
    """A random turn of the conversation, on its own."""
    start = 2 * rng.randrange(len(conversation) // 2)
    return conversation[start : start + 2]


def encode(conversations: Sequence[Conversation], encoder: PromptEncoder, max_tokens: int) -> list[Example]:
    """Each conversation's tokens, its last turns dropped until it fits; those whose first turn is too long are left out.

    What is learned: every reply with its end token.
    """
    rows = [encoder.chat.pieces(conversation) for conversation in conversations]
    examples = []
    for conversation, pieces, token_ids in zip(conversations, rows, encoder.chat.encode_pieces(rows), strict=True):
        if sum(piece.reply for piece in pieces) < len(conversation) // 2:
            raise DataError("chat template: the rendering of a conversation does not start with that of its prompt.")
        example, turn = Example([], []), Example([], [])
        for piece, ids in zip(pieces, token_ids, strict=True):
            turn.token_ids.extend(ids)
            turn.learned.extend([piece.reply] * len(ids))
            if not piece.reply:
                continue
            if len(example.token_ids) + len(turn.token_ids) > max_tokens:
                break
            example.token_ids.extend(turn.token_ids)
            example.learned.extend(turn.learned)
            turn = Example([], [])
        if example.token_ids:
            examples.append(example)
    return examples


def _turn(user: str, reply: str) -> tuple[Message, Message]:
    return {"role": "user", "content": user}, {"role": "assistant", "content": reply}
