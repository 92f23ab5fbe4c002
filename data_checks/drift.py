"""Drift of a day against its trailing 28 days, as PSI per distribution, from histograms that every day keeps.

PSI = sum (p - q) ln(p / q) over categories: below 0.1 nothing moved, above 0.25 the population changed (the rule of
thumb of credit scoring, where it comes from). Kept per day, so that a day's check reads small tables only.
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

TRAILING_DAYS, LEAST_DAYS = 28, 7
_SCRIPT_ROWS = 2_000  # first replies of the day whose script is looked at
_SCRIPTS = {
    "latin": r"\p{Latin}", "han": r"\p{Han}", "kana": r"[\p{Hiragana}\p{Katakana}]", "hangul": r"\p{Hangul}",
    "cyrillic": r"\p{Cyrillic}", "arabic": r"\p{Arabic}", "devanagari": r"\p{Devanagari}", "greek": r"\p{Greek}",
}  # fmt: skip
DISTRIBUTIONS = ("turns", "reply_length", "use_cases", "locales", "hours", "scripts", "policies")


def histograms(replies: pl.LazyFrame) -> pl.LazyFrame:
    """One row: `hist_<distribution>`, lists of {value, n}, of accepted replies."""
    content = pl.col("content")
    script = pl.coalesce(
        *(pl.when(content.str.contains(pattern)).then(pl.lit(name)) for name, pattern in _SCRIPTS.items()),
        pl.lit("other"),
    )
    values = {
        "turns": pl.col("turn_index").clip(0, 9),
        "reply_length": content.str.len_chars().add(1).log(2).floor().cast(pl.Int32),
        "use_cases": pl.col("use_case"),
        "locales": pl.col("locale"),
        "hours": pl.col("created_at").dt.hour(),
        "policies": pl.col("policy_version"),
    }
    scripts = replies.head(_SCRIPT_ROWS).select(_counted(script, "scripts"))
    return pl.concat([replies.select(_counted(one, name) for name, one in values.items()), scripts], how="horizontal")


def with_drift(metrics: pl.DataFrame) -> pl.DataFrame:
    """Metrics rows (one per `day`, any order) with `psi_<distribution>`; null with fewer than seven days before it."""
    ordered = metrics.sort("day")
    columns = {}
    for name in DISTRIBUTIONS:
        counts = ordered.select("day", pl.col(f"hist_{name}").alias("one")).explode("one", empty_as_null=False)
        by_day = counts.unnest("one").pivot("value", index="day", values="n").fill_null(0).sort("day")
        columns[f"psi_{name}"] = _psi(ordered["day"], by_day)
    drifted = ordered.with_columns(pl.Series(name, values, dtype=pl.Float64) for name, values in columns.items())
    return drifted.drop(pl.selectors.starts_with("hist_"))


def _counted(values: pl.Expr, name: str) -> pl.Expr:
    counts = values.alias("value").value_counts(sort=True, name="n")
    named = pl.field("value").cast(pl.String).fill_null("unknown")
    return counts.struct.with_fields(named, pl.field("n").cast(pl.Int64)).implode().alias(f"hist_{name}")


def _psi(days: pl.Series, counts: pl.DataFrame) -> list[float | None]:
    found: list[float | None] = []
    for day in days:
        today = counts.filter(pl.col("day") == day).drop("day")
        before = counts.filter(pl.col("day") < day, pl.col("day") >= day - timedelta(days=TRAILING_DAYS)).drop("day")
        if today.is_empty() or before.height < LEAST_DAYS:
            found.append(None)
            continue
        # Half a row per category, so that a category that is new or gone has a finite say.
        now, past = today.row(0), before.sum().row(0)
        p = pl.Series(now, dtype=pl.Float64) + 0.5
        q = pl.Series(past, dtype=pl.Float64) + 0.5
        p, q = p / p.sum(), q / q.sum()
        found.append(float(((p - q) * (p / q).log()).sum()))
    return found
