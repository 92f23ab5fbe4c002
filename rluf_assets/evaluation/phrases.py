"""Phrase lift: which phrases does a candidate say more often than the baseline? Found without being told.

All n-grams at the opening, at the closing and anywhere; a phrase counts once per prompt (its completions are not
independent). Significance: exact McNemar test over the same prompts, false discovery rate by Benjamini-Hochberg. Size:
log-odds with an informative Dirichlet prior from the logs (Monroe, Colaresi & Quinn 2008, eq. 15-22). Test and log-odds
count prompts, which is what was observed; shares tell of live traffic, so there a prompt weighs what it stands for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from rluf_assets.evaluation.config import HackingAuditConfig
from rluf_assets.evaluation.frames import prompt_weight
from rluf_assets.evaluation.stats import benjamini_hochberg
from rluf_assets.text import words

# Two phrases that share this much of their prompts are one thing said in different words.
SAME_PROMPTS = 0.8
# A phrase found this often on prompts that another one already covers adds nothing.
ADDS_NOTHING = 0.6
LARGEST_LIFTS = 400
PHRASE_SCHEMA: dict[str, Any] = {
    "phrase": pl.String, "position": pl.String, "words": pl.Int64, "share": pl.Float64, "baseline_share": pl.Float64,
    "logged_share": pl.Float64, "log_odds": pl.Float64, "log_odds_z": pl.Float64, "p_value": pl.Float64,
    "p_adjusted": pl.Float64, "prompts": pl.Int64,
}  # fmt: skip


def ngrams(texts: pl.DataFrame, max_words: int) -> pl.DataFrame:
    """Every n-gram of every text: columns doc, phrase, words, position ("opening", "closing", "inside").

    texts: doc, completion. An n-gram that is the whole reply is given as opening and as closing.
    """
    flat = (
        texts.select("doc", words(pl.col("completion")).alias("word"))
        .with_row_index("reply")
        .explode("word", empty_as_null=False)
        .drop_nulls("word")
        .with_columns(pl.int_range(pl.len()).over("reply").alias("at"), pl.len().over("reply").alias("total"))
    )
    parts = []
    for n in range(1, max_words + 1):
        following = [pl.col("word").shift(-k) for k in range(n)]
        gram = flat.with_columns(pl.concat_str(following, separator=" ").alias("phrase")).filter(
            pl.col("at") + n <= pl.col("total")
        )
        opening, closing = pl.col("at") == 0, pl.col("at") + n == pl.col("total")
        where = pl.concat_list(
            pl.when(opening).then(pl.lit("opening")),
            pl.when(closing).then(pl.lit("closing")),
            pl.when(~opening & ~closing).then(pl.lit("inside")),
        ).list.drop_nulls()
        parts.append(
            gram.select("doc", "phrase", pl.lit(n, pl.Int64).alias("words"), where.alias("position")).explode(
                "position"
            )
        )
    return pl.concat(parts)


def presence(texts: pl.DataFrame, max_words: int, wanted: pl.DataFrame | None = None) -> pl.DataFrame:
    """phrase, words, position ("anywhere" included), doc: one row per doc that holds it there; all or the `wanted`."""
    grams = ngrams(texts, max_words)
    if wanted is not None:
        grams = grams.join(wanted.select("phrase").unique(), on="phrase", how="semi")
    everywhere = grams.with_columns(pl.lit("anywhere").alias("position"))
    edges = grams.filter(pl.col("position") != "inside")
    return pl.concat([edges, everywhere]).unique().select("phrase", "words", "position", "doc")


def phrase_lift(
    completions: pl.DataFrame, baseline: pl.DataFrame, logged: pl.DataFrame, config: HackingAuditConfig
) -> pl.DataFrame:
    """Phrases that the candidate uses significantly more often than the baseline, largest gain in share first.

    completions, baseline: prompt_id, completion_id, completion on the same prompts; logged: completion. Of phrases that
    stand on the same prompts only one is told. Columns: PHRASE_SCHEMA.
    """
    ours, theirs = _same_depth(completions, baseline)
    prompts = ours["doc"].n_unique()
    ours_held, theirs_held = (presence(side, config.phrase_max_words) for side in (ours, theirs))
    counts = _discordant(ours_held, theirs_held)
    counts = counts.filter(pl.col("more") + pl.col("less") >= config.phrase_min_prompts)
    if counts.is_empty():
        return pl.DataFrame(schema=PHRASE_SCHEMA)
    tested = _with_tests(counts)
    found = tested.filter((pl.col("p_adjusted") <= config.phrase_fdr) & (pl.col("more") > pl.col("less")))
    if found.is_empty():
        return pl.DataFrame(schema=PHRASE_SCHEMA)
    found = _with_log_odds(_with_logged(found, logged, config), prompts, config)
    weights = completions.select(doc="prompt_id", weight=prompt_weight(completions)).unique("doc").sort("doc")
    found = _with_share(_with_share(found, ours_held, weights, "share"), theirs_held, weights, "baseline_share")
    found = found.with_columns(pl.col("ours").alias("prompts")).sort(
        [pl.col("share") - pl.col("baseline_share"), "words", "phrase", "position"],
        descending=[True, True, False, True],
    )
    held = ours_held.group_by("phrase", "position").agg(pl.col("doc").alias("docs"))
    return _distinct(found.head(LARGEST_LIFTS), held, config.phrases_kept).select(*PHRASE_SCHEMA)


def _with_share(found: pl.DataFrame, held: pl.DataFrame, weights: pl.DataFrame, name: str) -> pl.DataFrame:
    """Adds the share of traffic whose prompts hold the phrase."""
    keys = ["phrase", "position"]
    # In the prompts' order: a sum of floats differs in its last digits with the order.
    told = held.join(found.select(keys), on=keys, how="semi").join(weights, on="doc").sort("doc")
    share = told.group_by(keys, maintain_order=True).agg((pl.col("weight").sum() / weights["weight"].sum()).alias(name))
    return found.join(share, on=keys, how="left", maintain_order="left").with_columns(pl.col(name).fill_null(0.0))


def _same_depth(completions: pl.DataFrame, baseline: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both sides with as many completions per prompt, so that presence in a prompt is as likely by chance."""
    depth = min(min(f.group_by("prompt_id").len()["len"].to_list()) for f in (completions, baseline))
    first = pl.int_range(pl.len()).over("prompt_id") < depth
    sides = [f.sort("prompt_id", "completion_id").filter(first) for f in (completions, baseline)]
    ours, theirs = (f.select(pl.col("prompt_id").alias("doc"), "completion") for f in sides)
    return ours, theirs


def _discordant(ours: pl.DataFrame, theirs: pl.DataFrame) -> pl.DataFrame:
    """Per phrase and position: prompts that hold it on our side, on theirs, only on ours (more) or theirs (less)."""
    keys = ["phrase", "words", "position"]
    both = ours.join(theirs, on=[*keys, "doc"]).group_by(keys).len("both")
    left, right = ours.group_by(keys).len("ours"), theirs.group_by(keys).len("theirs")
    joined = left.join(right, on=keys, how="full", coalesce=True).join(both, on=keys, how="left")
    joined = joined.with_columns(pl.col(c).fill_null(0).cast(pl.Int64) for c in ("ours", "theirs", "both"))
    return joined.with_columns(
        (pl.col("ours") - pl.col("both")).alias("more"), (pl.col("theirs") - pl.col("both")).alias("less")
    ).sort(keys)


def _with_tests(counts: pl.DataFrame) -> pl.DataFrame:
    """Exact two-sided McNemar test per phrase: `more` of `more + less` against one half."""
    from scipy.stats import binom

    more, less = counts["more"].to_numpy(), counts["less"].to_numpy()
    p_value = np.minimum(1.0, 2 * binom.sf(np.maximum(more, less) - 1, more + less, 0.5))
    adjusted = benjamini_hochberg(p_value.tolist())
    return counts.with_columns(pl.Series("p_value", p_value), pl.Series("p_adjusted", adjusted))


def _with_logged(found: pl.DataFrame, logged: pl.DataFrame, config: HackingAuditConfig) -> pl.DataFrame:
    """Adds the share of logged replies that hold the phrase."""
    keys = ["phrase", "words", "position"]
    if logged.is_empty():
        return found.with_columns(pl.lit(0.0).alias("logged_share"))
    replies = logged.select("completion").with_row_index("doc")
    wanted = found.select(keys)
    held = presence(replies, max(found["words"].to_list()), wanted).join(wanted, on=keys).group_by(keys).len("held")
    share = (pl.col("held").fill_null(0) / len(replies)).alias("logged_share")
    return found.join(held, on=keys, how="left", maintain_order="left").with_columns(share)


def _with_log_odds(found: pl.DataFrame, prompts: int, config: HackingAuditConfig) -> pl.DataFrame:
    """Log-odds ratio and z-score, under a prior worth `phrase_prior` prompts at the logs' and both sides' share."""
    pooled = (pl.col("ours") + pl.col("theirs")) / (2 * prompts)
    prior = config.phrase_prior * (0.5 * pl.col("logged_share") + 0.5 * pooled)
    ours, theirs = pl.col("ours") + prior, pl.col("theirs") + prior
    total = prompts + config.phrase_prior
    log_odds = (ours / (total - ours)).log() - (theirs / (total - theirs)).log()
    return found.with_columns(
        log_odds.alias("log_odds"), (log_odds / (1 / ours + 1 / theirs).sqrt()).alias("log_odds_z")
    )


def _distinct(found: pl.DataFrame, held: pl.DataFrame, kept: int) -> pl.DataFrame:
    """One phrase for each thing that is said more often, the rest left out.

    Greedy: the phrase with the largest gain stands for the prompts that hold it, told by the longest phrase that holds
    nearly all of them ("bye sending love", not "love"); phrases mostly found on those prompts add nothing. `held`:
    phrase, position, docs (prompts of the candidate).
    """
    keys = ["phrase", "position"]
    docs = {(p, w): set(d) for p, w, d in found.select(keys).join(held, on=keys).select(*keys, "docs").iter_rows()}
    rest = found.to_dicts()
    gain = {(r["phrase"], r["position"]): r["share"] - r["baseline_share"] for r in rest}
    chosen: list[dict[str, Any]] = []
    while rest and len(chosen) < kept:
        top = rest[0]
        own = docs[top["phrase"], top["position"]]
        alike = [r for r in rest if len(docs[r["phrase"], r["position"]] & own) >= SAME_PROMPTS * len(own)]
        alike = [
            r for r in alike if gain[r["phrase"], r["position"]] >= SAME_PROMPTS * gain[top["phrase"], top["position"]]
        ]
        best = max(alike, key=lambda r: r["words"])
        chosen.append(best)
        covered = docs[best["phrase"], best["position"]] | own
        rest = [
            r
            for r in rest
            if len(docs[r["phrase"], r["position"]] & covered) < ADDS_NOTHING * len(docs[r["phrase"], r["position"]])
        ]
    return pl.DataFrame(chosen, schema=found.schema)
