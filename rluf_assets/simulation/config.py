"""Settings of the simulated production; defaults are the laptop profile's. The truth itself is not a setting."""

from __future__ import annotations

from datetime import date
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SimulationConfig(_Config):
    """The log period, its traffic and the expert pairs beside it. Day D does not depend on how many days follow."""

    version: ClassVar[str] = "2"
    days: int = Field(60, ge=1, le=999)
    start_date: date = date(2026, 1, 1)
    replies_per_day: int = Field(45_000, ge=200, description="mean; the realised number follows the users' returns")
    policy_change_day: int = Field(12, ge=0, description="0-based day on which the next policy version goes live")
    button_hidden_share: float = Field(0.03, ge=0, le=1, description="replies shown without a reaction button")
    defect_rate: float = Field(2e-4, ge=0, le=0.1, description="rate of each planted defect, per reply or reaction")
    helpfulness_pairs: int = Field(8_000, ge=0)
    safety_pairs: int = Field(4_000, ge=0)


class LaunchesConfig(_Config):
    """Ten past launches, each with an A/B test of its own before the log period."""

    version: ClassVar[str] = "1"
    users_per_arm: int = Field(250_000, ge=100)
    contexts: int = Field(60_000, ge=1_000, description="contexts over which a past policy's true rates are integrated")
    logs_start: date = Field(date(2026, 1, 1), description="launches lie before this day, three weeks apart")


class LiveTestConfig(_Config):
    """A live A/B arm of one candidate."""

    version: ClassVar[str] = "3"
    arm: str
    contexts: int = Field(2_000, ge=50)
    exposed_users: int = Field(60_000, ge=100)
    max_new_tokens: int = Field(48, ge=1)
    temperature: float = Field(1.0, gt=0)
    harmful_share: float = Field(0.15, gt=0, lt=0.5, description="of contexts: harmful requests; weights undo it")
    sounds_harmful_share: float = Field(0.10, gt=0, lt=0.5, description="of contexts; weights undo it")
    starts_on: date = Field(date(2026, 3, 10), description="first day of exposure, after the log period")
    batch_contexts: int = Field(250, ge=1, description="contexts per call of the sampling engine (progress, memory)")


class OracleConfig(_Config):
    """The truth's own AUROC on the holdout."""

    version: ClassVar[str] = "1"
    negatives: int = Field(40_000, ge=100, description="sampled negatives; all positives are kept")
