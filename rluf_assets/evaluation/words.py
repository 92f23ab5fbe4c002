"""Numbers as people read them. A figure that is not defined is shown as a dash: NaN never reaches a page."""

from __future__ import annotations

import math

DASH = "–"
MINUS = "−"


def percent(value: float | None, *, signed: bool = False, digits: int = 1) -> str:
    """0.0973 -> "9.7%", with a sign if asked; small rates keep two significant digits."""
    if value is None or not math.isfinite(value):
        return DASH
    scaled = abs(value) * 100
    if 0 < scaled < 1 and digits == 1:
        digits = min(4, 1 - math.floor(math.log10(scaled)))
    return _sign(value, signed) + f"{scaled:.{digits}f}%"


def points(value: float | None, *, signed: bool = True) -> str:
    """A difference of shares: 0.021 -> "+2.1 pt"."""
    text = percent(value, signed=signed)
    return text if text == DASH else text.removesuffix("%") + " pt"


def number(value: float | int | None, *, signed: bool = False, digits: int = 2) -> str:
    """A plain figure; counts get thousands separators."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    if isinstance(value, int):
        return f"{value:,}"
    return _sign(value, signed) + f"{abs(value):.{digits}f}"


def span(low: float | None, high: float | None, *, as_percent: bool = True, signed: bool = True) -> str:
    """An interval: "+1.2% to +8.9%"; a missing bound says so."""
    if low is None or high is None:
        return "no interval"
    shown = [percent(v, signed=signed) if as_percent else number(v, signed=signed) for v in (low, high)]
    return f"{shown[0]} to {shown[1]}"


def _sign(value: float, signed: bool) -> str:
    return MINUS if value < 0 else ("+" if signed and value > 0 else "")
