"""The degenerate control: replies spoilt on purpose, which an evaluator that reads must score last."""

from __future__ import annotations

import numpy as np
import polars as pl

SHUFFLED, TRUNCATED = "shuffled", "truncated"
KINDS = (SHUFFLED, TRUNCATED)
# Shorter replies are the same, or nearly, when shuffled or cut.
MIN_WORDS = 4


def spoil(texts: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """Degenerate replies that any evaluator must score last: the same words shuffled, and the first third of them.

    Takes and returns rows with `completion`; adds `kind` ("shuffled", "truncated").
    """
    rng = np.random.default_rng(seed)
    parts = []
    for kind in KINDS:
        spoilt = []
        for text in texts["completion"]:
            words = text.split()
            kept = list(rng.permutation(words)) if kind == SHUFFLED and words else words[: -(-len(words) // 3)]
            spoilt.append(" ".join(kept))
        parts.append(texts.with_columns(pl.Series("completion", spoilt, dtype=pl.String), pl.lit(kind).alias("kind")))
    return pl.concat(parts)


def spoilt_sample(completions: pl.DataFrame, count: int, *, seed: int) -> pl.DataFrame:
    """The first reply to `count` prompts, spoilt both ways: prompt_id, completion_id, use_case, prompt, completion, kind.

    The same seed and prompts give every candidate the same draw of prompts; replies under four words are left out.
    """
    prompts = completions["prompt_id"].unique().sort()
    drawn = prompts.sample(min(count, len(prompts)), seed=seed % 2**32)
    columns = ["prompt_id", "completion_id", "use_case", "prompt", "completion"]
    columns += ["turn_index"] if "turn_index" in completions.columns else []
    chosen = (
        completions.filter(pl.col("prompt_id").is_in(drawn.implode()))
        .filter(pl.col("completion").str.count_matches(r"\S+") >= MIN_WORDS)
        .sort("prompt_id", "completion_id")
        .unique("prompt_id", keep="first", maintain_order=True)
        .select(columns)
    )
    return spoil(chosen, seed=seed)
