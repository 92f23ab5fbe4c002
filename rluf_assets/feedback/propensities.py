"""With which chance a reply came about, where the log says so: what off-policy evaluation needs of a row.

`assignment_probability` lies in (0, 1], `reply_logprob` is at most 0. A value outside is no chance, and the log-probability
of a text that redaction changed is not that of the text which is kept: both count as missing, and are counted.
"""

from __future__ import annotations

import polars as pl

_LOGPROB, _ASSIGNED = pl.col("reply_logprob"), pl.col("assignment_probability")
_ROUNDING = 1e-6  # sums of float32 log-probabilities end a little above 0


def usable_propensities(replies: pl.DataFrame, rewritten: pl.Series | None) -> tuple[pl.DataFrame, dict[str, int]]:
    """The replies with what can be used, and per reason how many values cannot. `rewritten`: texts that were changed."""
    kept = _LOGPROB if rewritten is None else pl.when(~rewritten).then(_LOGPROB)
    judged = replies.with_columns(
        assignment_probability=pl.when(_ASSIGNED > 0, _ASSIGNED <= 1).then(_ASSIGNED),
        reply_logprob=pl.when(_LOGPROB.is_finite(), _LOGPROB <= _ROUNDING).then(kept.clip(upper_bound=0.0)),
    )
    given = replies.select(
        _ASSIGNED.count(), _LOGPROB.count(), redacted=(_LOGPROB.is_not_null() & kept.is_null()).sum()
    ).row(0)
    used = judged.select(_ASSIGNED.count(), _LOGPROB.count()).row(0)
    unusable = {
        "unusable_assignment_probability": given[0] - used[0],
        "unusable_reply_logprob": given[1] - used[1],
        "unusable_reply_logprob_redacted": given[2],
    }
    return judged, {name: count for name, count in unusable.items() if count}
