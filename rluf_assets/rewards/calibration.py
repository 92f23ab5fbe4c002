"""From a raw score to a probability at the training rate, and to one at the live rate.

Upsampling positives multiplies the odds by q_pos/q_neg (the classes' inclusion probabilities), so the logit must lose
ln(q_pos/q_neg): ln 111 for 0.1% -> 10% (RLUF, section 3). A temperature fitted on validation rows at the training rate
takes out over-confidence: `live = sigmoid(z/T + offset - shift)`. Where negatives were matched to positives by use case
and turn, each such stratum has a q_neg, hence a shift, of its own.

The offset keeps the mean prediction at the training rate. Without it a temperature cannot mend over-confidence where
classes are unequal: dividing logits around -2 by T > 1 raises every probability, so the best T is near 1 whatever the
spread (Platt 1999 fits both; Guo et al. 2017 had balanced classes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import expit, logit

from rluf_assets.errors import ArtifactMissing, DataError
from rluf_assets.lake import read_json, write_json

CALIBRATION = "calibration.json"
# Fewer examples of the rarer class say too little about a temperature.
MIN_VALIDATION_EXAMPLES = 20
LAST_TURN = 9
LOG_TEMPERATURE_BOUNDS = (math.log(0.2), math.log(10.0))


class Calibration(BaseModel):
    """What turns a reward model's logit into probabilities; stored as `calibration.json` beside the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: str
    signal: str
    temperature: float = Field(gt=0, allow_inf_nan=False)
    offset: float = Field(0.0, allow_inf_nan=False)
    shift: float = Field(allow_inf_nan=False)
    strata_shifts: dict[str, float] = Field({}, description="matched sampling: the shift of each stratum; else empty")
    base_rate: float | None = Field(None, ge=0, le=1)
    train_positive_rate: float | None = Field(None, ge=0, le=1)
    validation_rows: int = 0
    max_length: int = Field(ge=1)
    trained_until: str | None = None

    def probability(self, logits: np.ndarray) -> np.ndarray:
        """Probability at the training rate (for pairs: of beating a reply with score 0)."""
        return np.asarray(expit(np.asarray(logits, np.float64) / self.temperature + self.offset))

    def live_probability(self, logits: np.ndarray, strata: Sequence[str] | None = None) -> np.ndarray:
        """Probability at the live rate; with `strata` (`strata_of`) each row's own shift, where sampling was matched."""
        shift: float | np.ndarray = self.shift
        if strata is not None and self.strata_shifts:
            shift = np.array([self.strata_shifts.get(name, self.shift) for name in strata])
        return np.asarray(expit(np.asarray(logits, np.float64) / self.temperature + self.offset - shift))

    def save(self, folder: Path) -> None:
        write_json(str(folder / CALIBRATION), self.model_dump(mode="json"))


def load_calibration(folder: str | Path) -> Calibration:
    """Read `calibration.json`. Raises ArtifactMissing if it is not there, DataError if it is not what we write."""
    path = Path(folder) / CALIBRATION
    try:
        return Calibration.model_validate(read_json(str(path)))
    except FileNotFoundError:
        raise ArtifactMissing(
            f"{path}: not found, so the folder is no finished reward model. Train it, or point to a finished one."
        ) from None
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise DataError(f"{path}: not a calibration ({wrong}). Train the model again; do not edit the file.") from error


def prior_shift(rates: dict[str, Any]) -> float:
    """ln(q_pos/q_neg) from a signal set's recorded inclusion probabilities."""
    found = {key: rates.get(key) for key in ("q_pos", "q_neg")}
    if not all(isinstance(q, int | float) and 0 < q <= 1 for q in found.values()):
        raise DataError(f"rates.json: expected q_pos and q_neg in (0, 1], found {found}. Build the signal set again.")
    return math.log(found["q_pos"] / found["q_neg"])


def strata_shifts(rates: dict[str, Any]) -> dict[str, float]:
    """ln(q_pos/q_neg) of each stratum that negatives were drawn from; empty where they were drawn uniformly."""
    found = {name: stratum.get("q_neg") for name, stratum in (rates.get("strata") or {}).items()}
    return {name: math.log(rates["q_pos"] / q_neg) for name, q_neg in found.items() if q_neg}


def strata_of(rows: pl.DataFrame) -> list[str] | None:
    """Each row's stratum, as the signal set names it (use case and turn, later turns as one); None without the columns."""
    if not {"use_case", "turn_index"} <= set(rows.columns):
        return None
    turn = pl.min_horizontal("turn_index", LAST_TURN)
    named = rows.select(pl.format("{} / turn {}", pl.col("use_case").fill_null("unknown"), turn).fill_null(""))
    return named.to_series().to_list()


def fit_signal(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray, rate: float) -> tuple[float, float]:
    """Temperature and offset of sigmoid(z/T + offset) on validation rows, T by maximum likelihood (Platt 1999).

    The offset is then set so that the mean prediction is `rate`, the training rows' own: validation rows are too few to
    know it better. (1, 0) if a class has too few examples.
    """
    if min(labels.sum(), (1 - labels).sum()) < MIN_VALIDATION_EXAMPLES:
        return 1.0, 0.0

    def log_loss(at: np.ndarray) -> float:
        z = logits * math.exp(-at[0]) + at[1]
        return float(np.average(np.logaddexp(0, z) - labels * z, weights=weights))

    log_temperature = float(minimize(log_loss, np.zeros(2), bounds=[LOG_TEMPERATURE_BOUNDS, (-20, 20)]).x[0])
    scaled = logits * math.exp(-log_temperature)
    reach = 1 + float(np.abs(scaled).max()) + abs(float(logit(rate)))
    offset = brentq(lambda b: float(np.average(expit(scaled + b), weights=weights)) - rate, -reach, reach)
    return math.exp(log_temperature), float(offset)


def fit_pairs(differences: np.ndarray) -> float:
    """T > 0 that minimises the log loss of sigmoid((z_chosen - z_rejected)/T) (Guo et al. 2017); 1.0 for few pairs."""
    if len(differences) < MIN_VALIDATION_EXAMPLES:
        return 1.0

    def log_loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -differences * math.exp(-log_temperature)).mean())

    return math.exp(minimize_scalar(log_loss, bounds=LOG_TEMPERATURE_BOUNDS, method="bounded").x)
