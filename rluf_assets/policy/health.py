"""When an optimisation should not go on: too many broken rewards, nothing left to learn from, or a limit that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rluf_assets.errors import TrainingError
from rluf_assets.policy.config import OptimisationConfig


def check_health(rows: Sequence[Mapping[str, Any]], config: OptimisationConfig) -> None:
    """Raise TrainingError if too many prompts had NaN rewards, or nothing has survived for some iterations."""
    nan, prompts = sum(row["set_aside"] for row in rows), sum(row["prompts"] for row in rows)
    if nan > config.max_nan_share * prompts:
        raise TrainingError(
            f"iteration {len(rows)}: rewards of {nan} of {prompts} prompts are NaN or infinite, more than "
            f"{config.max_nan_share:.1%}. See outcome 'set aside' in phases/*/select.parquet and retrain that model."
        )
    last = rows[-config.max_empty_iterations :]
    if len(last) == config.max_empty_iterations and all(row["learned"] == 0 for row in last):
        worst = max(
            (key for key in rows[-1] if key.startswith("judge_")), key=lambda key: rows[-1][key] or 0.0, default="none"
        )
        raise TrainingError(
            f"iterations {len(rows) - len(last) + 1} to {len(rows)}: no reply met every constraint "
            f"(fails most: {worst}, {rows[-1].get(worst)}; share over kl_max: {rows[-1]['kl_over_max']}). "
            "Loosen judges or kl_max, or start from a better base policy."
        )


def stop_reason(rows: Sequence[Mapping[str, Any]], config: OptimisationConfig) -> str | None:
    """Why the run should end before its last iteration, if asked for and met."""
    if not rows:
        return None
    for limit, figure in ((config.stop_kl_mean, "kl_mean"), (config.stop_farewell_share, "farewell_share")):
        value = rows[-1][figure]
        if limit is not None and value is not None and value > limit:
            return f"{figure} {value:.4g} > {limit:g} in iteration {len(rows)}"
    return None
