"""Rows as token ids, for training and for held-out rows alike; those that do not fit a model are set aside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.encoding import Encoded, Encoder
from rluf_assets.rewards.set_aside import ROW, SetAside


@dataclass(frozen=True)
class Encoding:
    """Rows as token ids: `per_row` sequences for each row (1: a labelled reply; 2: chosen, rejected)."""

    token_ids: list[np.ndarray]
    per_row: int

    def take(self, mask: np.ndarray) -> Encoding:
        kept = np.repeat(mask, self.per_row)
        return Encoding([ids for ids, keep in zip(self.token_ids, kept, strict=True) if keep], self.per_row)


def encode_rows(
    rows: pl.DataFrame, encoder: Encoder, config: RewardConfig, aside: SetAside
) -> tuple[pl.DataFrame, Encoding, dict[str, int]]:
    """The rows that fit, their token ids, and counts of turns cut and rows dropped.

    Raises DataError where a row is too long and the config says that this is an error, or too many rows are lost.
    """
    columns = ("completion",) if config.objective == "bce" else ("chosen", "rejected")
    try:
        encoded = _encode(rows, columns, encoder)
    except DataError as error:  # the model's own template raises, for the order of roles say: for which rows?
        refused = _refused(rows, columns, encoder)
        if refused.all():
            raise DataError(f"{aside.name}, every row: {error}") from error
        rows = aside.drop(rows, refused, "refused_by_template")
        aside.check()
        encoded = _encode(rows, columns, encoder)
    too_long = np.any([e.too_long for e in encoded], axis=0)
    if too_long.any() and config.on_too_long == "error":
        first = int(too_long.argmax())
        raise DataError(
            f"{aside.name}: {int(too_long.sum())} of {len(rows)} rows do not fit {encoder.max_length} tokens even with "
            f"one turn (first: row {rows[ROW][first]}, {max(len(e.token_ids[first]) for e in encoded)} tokens). "
            "Raise max_length, or set on_too_long: set_aside."
        )
    aside.note(rows[ROW].to_numpy()[too_long], "too_long")
    alike = _alike(encoded) & ~too_long
    aside.note(rows[ROW].to_numpy()[alike], "alike_when_cut")
    aside.check()
    kept = ~(too_long | alike)
    cut = np.max([e.turns_dropped for e in encoded], axis=0)[kept]
    counts = {
        "rows": len(rows),
        "dropped_too_long": int(too_long.sum()),
        "contexts_cut": int((cut > 0).sum()),
        "turns_cut": int(cut.sum()),
    }
    token_ids = [e.token_ids[i] for i in np.flatnonzero(kept) for e in encoded]
    return rows.filter(kept), Encoding(token_ids, len(columns)), counts


def _alike(encoded: list[Encoded]) -> np.ndarray:
    """Where both sides of a pair are the same tokens, as texts that differ in what a template strips are."""
    if len(encoded) == 1:
        return np.zeros(len(encoded[0].token_ids), dtype=bool)
    sides = zip(encoded[0].token_ids, encoded[1].token_ids, strict=True)
    return np.array([np.array_equal(a, b) for a, b in sides], dtype=bool)


def _encode(rows: pl.DataFrame, columns: tuple[str, ...], encoder: Encoder) -> list[Encoded]:
    prompts = rows["prompt"].to_list()
    return [encoder.encode(prompts, rows[column].to_list()) for column in columns]


def _refused(rows: pl.DataFrame, columns: tuple[str, ...], encoder: Encoder) -> np.ndarray:
    refused = np.zeros(len(rows), dtype=bool)
    for i in range(len(rows)):
        try:
            _encode(rows[i : i + 1], columns, encoder)
        except DataError:
            refused[i] = True
    return refused
