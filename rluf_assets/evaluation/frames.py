"""Reading and checking the frames that evaluation rests on.

Every check names the artifact, what was found, what was expected and the remedy, before anything is computed, so that
no later stage meets a missing column, an empty arm or a NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import polars as pl

from rluf_assets.errors import ArtifactMissing, DataError

COMPLETION_COLUMNS = ("prompt_id", "completion_id", "use_case", "prompt", "completion", "finished")
SCORE_COLUMNS = ("prompt_id", "completion_id", "use_case", "objective", "logit", "probability", "live_probability")
T = TypeVar("T")
ALL = "all"  # the segment that holds every use case


def prompt_weight(frame: pl.DataFrame) -> pl.Expr:
    """Expression: a row's prompt's weight in traffic; all prompts weigh the same where none is given."""
    return pl.col("weight") if "weight" in frame.columns else pl.lit(1.0).alias("weight")


@dataclass(frozen=True)
class Evaluation:
    """A candidate's `offline_evaluation`: completions on the fixed prompts and their score per objective.

    `spoilt`, where it was made: some of the replies shuffled or truncated (`kind`), with their `live_probability`.
    """

    completions: pl.DataFrame
    scores: pl.DataFrame
    spoilt: pl.DataFrame | None = None

    @property
    def judges(self) -> list[str]:
        """Names of the judges whose verdicts (`judge_<name>`, true = passed) are recorded."""
        return [c.removeprefix("judge_") for c in self.completions.columns if c.startswith("judge_")]

    @property
    def objectives(self) -> list[str]:
        return self.scores["objective"].unique().sort().to_list()


def read_parquet(path: Path) -> pl.DataFrame:
    """A Parquet file. Raises ArtifactMissing naming it."""
    if not path.exists():
        raise ArtifactMissing(f"{path}: no such file. Materialise {path.parent.parent.name or 'the asset'} first.")
    return pl.read_parquet(path)


def read_evaluation(candidate: str, folder: Path) -> Evaluation:
    """Read and check a candidate's offline evaluation."""
    completions = read_parquet(folder / "completions.parquet")
    scores, control = read_parquet(folder / "scores.parquet"), folder / "spoilt.parquet"
    spoilt = read_parquet(control) if control.exists() else None
    return check_evaluation(candidate, Evaluation(completions, scores, spoilt))


def check_evaluation(candidate: str, found: Evaluation) -> Evaluation:
    """Check columns, that scores are finite and belong to completions; returns it with verdict structs unnested."""
    where = f"offline_evaluation[{candidate}]"
    completions, scores = found.completions, found.scores
    require_columns(f"{where} completions", completions, COMPLETION_COLUMNS)
    require_columns(f"{where} scores", scores, SCORE_COLUMNS)
    require_rows(f"{where} completions", completions)
    require_rows(f"{where} scores", scores)
    if isinstance(completions.schema.get("verdicts"), pl.Struct):
        verdicts = completions["verdicts"].struct.unnest()
        completions = completions.drop("verdicts").hstack(verdicts.rename({c: f"judge_{c}" for c in verdicts.columns}))
    keys = ["prompt_id", "completion_id"]
    if completions.select(keys).is_duplicated().any():
        raise DataError(
            f"{where}: found a completion twice, expected (prompt_id, completion_id) unique. Evaluate again."
        )
    require_finite(f"{where} scores", scores, ("logit",))
    per_objective = scores.group_by("objective").agg(pl.struct(keys).n_unique().alias("scored"))
    short = per_objective.filter(pl.col("scored") != len(completions))
    if len(short) or scores.join(completions, on=keys, how="anti").height:
        raise DataError(
            f"{where}: found scores for {dict(short.iter_rows())} completions, expected all {len(completions)} "
            "under every objective. Evaluate again."
        )
    if found.spoilt is not None:
        require_columns(f"{where} spoilt", found.spoilt, ("prompt_id", "kind", "live_probability"))
        require_finite(f"{where} spoilt", found.spoilt, ("live_probability",))
    return Evaluation(completions, scores, found.spoilt)


def require_columns(where: str, frame: pl.DataFrame, columns: Iterable[str]) -> None:
    """Raise DataError if a column is missing."""
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise DataError(f"{where}: found columns {frame.columns}, expected also {missing}. Make the artifact again.")


def require_rows(where: str, frame: pl.DataFrame) -> None:
    """Raise DataError if a frame is empty."""
    if frame.is_empty():
        raise DataError(f"{where}: found no rows, expected at least one. Check the stage that wrote it.")


def require_counts(where: str, frame: pl.DataFrame, columns: Iterable[str]) -> None:
    """Raise DataError if one of the columns, where it is there, holds anything but finite numbers >= 0 or true and false."""
    schema = {c: kind for c, kind in frame.schema.items() if c in set(columns)}
    wrong = {c: str(kind) for c, kind in schema.items() if not (kind.is_numeric() or kind == pl.Boolean)}
    if wrong:
        raise DataError(f"{where}: found {wrong}, expected numbers >= 0 in these columns. Write them as numbers.")
    values = frame.select(pl.col(c).cast(pl.Float64) for c in schema)
    bad = [c.name for c in values if not c.is_finite().fill_null(False).all() or (c < 0).any()]
    if bad:
        raise DataError(f"{where}: found missing, infinite or negative counts in {bad}, expected numbers >= 0.")


def require_finite(where: str, frame: pl.DataFrame, columns: Sequence[str]) -> None:
    """Raise DataError if a column holds a null or a value that is not finite."""
    for column in columns:
        bad = frame.filter(~pl.col(column).is_finite().fill_null(False)).height
        if bad:
            raise DataError(
                f"{where}: found {bad} of {len(frame)} values of {column!r} missing or not finite, expected numbers. "
                "Score again; a NaN here usually means a reward model that diverged."
            )


def require_baseline(where: str, found: Mapping[str, T], baseline: str) -> T:
    """The baseline's entry; DataError if there is none."""
    if baseline not in found:
        raise DataError(
            f"{where}: found candidates {sorted(found)}, expected the baseline {baseline!r} among them. "
            "Materialise that partition, or name another baseline in the config."
        )
    return found[baseline]
