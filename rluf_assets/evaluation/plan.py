"""What an A/B test will be judged by, written down before any user meets a candidate: `ab_plan` in the settings.

The plan's hash is recorded with a candidate's weights before its exposures are read (`decision_log.bind_plan`). A plan that
changes afterwards is named on the page, and nothing is promoted under it: who may choose the rule after seeing the data can
always find one that passes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rluf_assets.evaluation.boundaries import Spending


class Margin(BaseModel):
    """How much worse a guardrail may get: a share of the control's value, or of all users at risk, whichever is larger.

    Where the control has few events or none, only the absolute margin counts: a ratio would be noise, or undefined.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    relative: float | None = Field(None, gt=0, description="of the control's value: 0.1 is a tenth worse")
    absolute: float | None = Field(None, gt=0, lt=1, description="of users at risk: 0.005 is one more user in 200")

    @model_validator(mode="after")
    def _one_at_least(self) -> Margin:
        if self.relative is None and self.absolute is None:
            raise ValueError("a margin: expected relative, absolute or both, found neither")
        return self


DEFAULT_GUARDRAILS: dict[str, Margin] = {
    "thumbs_down_rate": Margin(relative=0.1, absolute=0.005),
    "conversations_per_user": Margin(relative=0.05),
    "replies_per_conversation": Margin(relative=0.05),
    "early_ending_rate": Margin(relative=0.1, absolute=0.005),
    "next_day_return": Margin(relative=0.05),
    # A rare harm: one more harmed user in 200 at risk is the most that may be, however few the control has.
    "harmful_compliance_rate": Margin(relative=0.1, absolute=0.005),
}
Exclusion = Literal["users_in_both_arms", "adversarial"]


class AbPlan(BaseModel):
    """Goals, guardrails, size, looks and exclusions of the A/B tests of this home."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    version: ClassVar[str] = "1"

    goals: tuple[str, ...] = Field(("love_rate",), min_length=1, description="metrics of which one at least must rise")
    guardrails: dict[str, Margin] = Field(default_factory=lambda: dict(DEFAULT_GUARDRAILS))
    minimum_detectable_effect: float = Field(
        0.05, gt=0, description="relative lift of a goal that the test is sized for"
    )
    alpha: float = Field(0.05, gt=0, lt=0.5, description="two-sided error over all looks, goals and candidates")
    power: float = Field(0.8, gt=0, lt=1)
    planned_users: int = Field(10_000, ge=2, description="users in both arms together when the test ends")
    planned_days: int = Field(14, ge=1)
    looks: tuple[float, ...] = Field((0.5, 1.0), min_length=1, description="shares of the planned users")
    look_tolerance: float = Field(0.03, ge=0, lt=0.2, description="a look is on time up to this share of users later")
    spending: Spending = "obrien_fleming"
    candidates: int = Field(1, ge=1, description="candidates that are tested against the one baseline at a time")
    planned_shares: dict[str, float] = Field({}, description="planned traffic per arm, every arm; empty: equal")
    design: Literal["parallel", "paired"] = Field(
        "parallel", description="paired: every user meets every arm, as in a simulation; users in both arms are kept"
    )
    exclude: tuple[Exclusion, ...] = ("users_in_both_arms", "adversarial")
    winsorise: dict[str, float] = Field({}, description="metric -> quantile of users at which its counts are cut")
    segments: tuple[str, ...] = Field(
        (), description="traits of which no group may be shown to be worse off: use_case, new_user, locale, or a column"
    )
    excused: tuple[str, ...] = Field(
        (), description="goals, guardrails, offline gates and segments that may go unmeasured"
    )
    measured_by: dict[str, Any] = Field(
        {},
        description="filled in: the settings of ab_test_readout, reward_hacking_audit and non_inferior, which decide too",
    )

    @model_validator(mode="after")
    def _consistent(self) -> AbPlan:
        both = sorted(set(self.goals) & set(self.guardrails))
        if both:
            raise ValueError(f"{both}: expected a metric to be a goal or a guardrail, not both")
        for what, names in (("goals", self.goals), ("segments", self.segments), ("excused", self.excused)):
            if len(set(names)) < len(names):
                raise ValueError(f"{what} {list(names)}: expected every name once")
        if any(not 0 < t <= 1 for t in self.looks) or list(self.looks) != sorted(set(self.looks)):
            raise ValueError(f"looks {self.looks}: expected rising shares of the planned users, above 0, at most 1")
        if self.looks[-1] != 1:
            raise ValueError(f"looks {self.looks}: expected the last one at 1, the end of the test")
        if any(share <= 0 for share in self.planned_shares.values()):
            raise ValueError(f"planned_shares {self.planned_shares}: expected shares above 0")
        if any(not 0.5 < q < 1 for q in self.winsorise.values()):
            raise ValueError(f"winsorise {self.winsorise}: expected quantiles between 0.5 and 1")
        return self

    @property
    def hash(self) -> str:
        """Of everything in the plan; sixteen hex digits. What plans hold only since later counts where it says something."""
        said = {k: v for k, v in self.model_dump(mode="json").items() if k not in ("segments", "measured_by") or v}
        text = json.dumps({"version": self.version, **said}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def look(self, users: int) -> int | None:
        """Which planned look it is (0 is the first) when so many users were exposed; None between looks and after the end."""
        fraction = users / self.planned_users
        for k, planned in enumerate(self.looks):
            if planned <= fraction * (1 + 1e-9) and fraction <= planned + self.look_tolerance:
                return k
        return None

    def critical_value(self, users: int, *, alpha: float | None = None) -> float | None:
        """Of a planned look at so many users, at this alpha; None where the plan has no look (then: always valid)."""
        from rluf_assets.evaluation.boundaries import critical_values

        k = self.look(users)
        if k is None:
            return None
        # The planned times, so that a look that comes a little late spends no more than was planned.
        return critical_values(self.looks, alpha=alpha or self.alpha, spending=self.spending)[k]
