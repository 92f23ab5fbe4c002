"""Drift of a day against its trailing 28 days, as PSI per distribution, from histograms that every day keeps.

PSI = sum (p - q) ln(p / q) over categories: below 0.1 nothing moved, above 0.25 the population changed (the rule of
thumb of credit scoring, where it comes from). Kept per day, so that a day's check reads small tables only.

Small days differ by chance: where nothing changed, PSI is about (1/n + 1/m) chi-square with one degree of freedom less
than categories (Yurdakul 2018), so that 24 hours of the day with 100 replies are above 0.25 every other day. What chance
reaches once in a thousand days is taken off: `psi_*` is what is beyond it, and the rule of thumb holds at any size. n and
m count users (of each day), not replies, as those of one user are alike.
"""

from __future__ import annotations

from datetime import date, timedelta
from statistics import NormalDist

import polars as pl

TRAILING_DAYS, LEAST_DAYS = 28, 7
_BY_CHANCE = 0.001
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
    """Metrics rows (one per `day`, any order) with `psi_<distribution>`, beyond chance; null with fewer than seven days
    before it.
    """
    ordered = metrics.sort("day")
    users = dict(ordered.select("day", "users").iter_rows())
    columns = {}
    for name in DISTRIBUTIONS:
        counts = ordered.select("day", pl.col(f"hist_{name}").alias("one")).explode("one", empty_as_null=False)
        by_day = counts.unnest("one").pivot("value", index="day", values="n").fill_null(0).sort("day")
        columns[f"psi_{name}"] = _psi(ordered["day"], by_day, users)
    drifted = ordered.with_columns(pl.Series(name, values, dtype=pl.Float64) for name, values in columns.items())
    return drifted.drop(pl.selectors.starts_with("hist_"))


def _counted(values: pl.Expr, name: str) -> pl.Expr:
    counts = values.alias("value").value_counts(sort=True, name="n")
    named = pl.field("value").cast(pl.String).fill_null("unknown")
    return counts.struct.with_fields(named, pl.field("n").cast(pl.Int64)).implode().alias(f"hist_{name}")


def _psi(days: pl.Series, counts: pl.DataFrame, users: dict[date, int]) -> list[float | None]:
    found: list[float | None] = []
    for day in days:
        today = counts.filter(pl.col("day") == day).drop("day")
        before = counts.filter(pl.col("day") < day, pl.col("day") >= day - timedelta(days=TRAILING_DAYS)).drop("day")
        if today.is_empty() or before.height < LEAST_DAYS:
            found.append(None)
            continue
        # Half a row per category, so that a category that is new or gone has a finite say.
        now, past = today.row(0), before.sum().row(0)
        sizes = counts.select("day", n=pl.sum_horizontal(pl.exclude("day"))).iter_rows()
        alike = {one: min(n, users[one]) for one, n in sizes}
        trailing = (alike[one] for one in alike if day - timedelta(days=TRAILING_DAYS) <= one < day)
        by_chance = chance(len([n for n in zip(now, past, strict=True) if any(n)]), alike[day], sum(trailing))
        p = pl.Series(now, dtype=pl.Float64) + 0.5
        q = pl.Series(past, dtype=pl.Float64) + 0.5
        p, q = p / p.sum(), q / q.sum()
        found.append(max(0.0, float(((p - q) * (p / q).log()).sum()) - by_chance))
    return found


def chance(categories: int, n: int, m: int) -> float:
    """The PSI that samples of n and m from one population exceed once in a thousand (Wilson and Hilferty 1931)."""
    df = float(max(1, categories - 1))
    spread = 2 / (9 * df)
    chi_square: float = df * (1 - spread + NormalDist().inv_cdf(1 - _BY_CHANCE) * spread**0.5) ** 3
    return (1 / max(n, 1) + 1 / max(m, 1)) * chi_square
