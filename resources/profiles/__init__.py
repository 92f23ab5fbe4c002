"""Profiles: every setting of the graph in one typed tree, read from YAML.

A packaged profile (`tiny`, `laptop`) gives the ground, the home folder's `rluf.yaml` is laid over it. Unknown keys are
errors that name the nearest key. `candidates.yaml` is the only place where a candidate's weights are written.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from resources.profiles.launchers import JobSettings, LauncherSettings, LocalSettings, check_jobs
from resources.profiles.plan import PlanSettings
from rluf_assets.errors import ConfigError
from rluf_assets.evaluation.config import BacktestConfig, HackingAuditConfig, ReadoutConfig, ReleaseConfig
from rluf_assets.evaluation.off_policy_rows import OffPolicyConfig
from rluf_assets.evaluation.plan import AbPlan
from rluf_assets.feedback.config import (
    POLARITY,
    SIGNALS,
    ContractConfig,
    Format,
    MessagesLayout,
    PairsConfig,
    PromptsConfig,
    SignalAuditConfig,
    SignalSetConfig,
    judging_signals,
)
from rluf_assets.policy.config import BasePolicyConfig, EvaluationConfig, OptimisationConfig
from rluf_assets.rewards.config import RewardConfig

Settings = TypeVar("Settings", bound=BaseModel)
SETTINGS_FILE = "rluf.yaml"
CANDIDATES_FILE = "candidates.yaml"
PAGES_URL = "http://127.0.0.1:3001"
ENVIRONMENT_PREFIX = "RLUF__"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SimulatedSettings(_Frozen):
    """A simulated company; each part is validated by `rluf_assets.simulation.config` when it is played."""

    kind: Literal["simulated"]
    first_day: date = date(2026, 1, 1)
    days: int = Field(60, ge=2)
    logs: dict[str, Any] = {}
    launches: dict[str, Any] = {}
    ab_test: dict[str, Any] = {}


class LoggedSettings(_Frozen):
    """A company's own stores; `{day}` in a template stands for the partition's date.

    Relative paths, here and in `base` and `corpora` of the models, lie in `data`.
    """

    kind: Literal["logged"]
    data: str | None = Field(None, description="folder that relative paths lie in; None: the home folder")
    dated: bool = Field(True, description="false: the source has no times and is one partition, first_day")
    first_day: date = Field(description="first day of the logs; of a source without times any day that is past")
    days: int | None = Field(None, ge=1, description="None: up to yesterday, one more partition every day")
    messages: str
    reactions: str
    log_format: Format = "canonical"
    log_layout: MessagesLayout = MessagesLayout()
    user_ids: Literal["hashed", "raw"] = Field("hashed", description="raw: hashed with RLUF_USER_SALT on the way in")
    if_missing: Literal["error", "empty"] = Field(
        "error", description="what a day without a file means: empty, no rows"
    )
    preferences: dict[str, str] = Field(description="file of expert pairs for helpfulness and for safety")
    past_launches: str | None = Field(
        None, description="folder with launches.parquet and texts.parquet; None: the arms that the logs name, if any"
    )
    ab_exposures: str | None = Field(
        None, description="folder with exposures.parquet, `{candidate}` stands for the arm; None: no candidate was live"
    )

    @property
    def period_days(self) -> int | None:
        """How many days there are; None where a new one comes every day."""
        return self.days if self.dated else 1


class RetentionSettings(_Frozen):
    """How long the lake keeps raw logs, as the source gave them; the source itself is not ours to change."""

    raw_days: int | None = Field(
        None, ge=1, description="raw days older than this before the newest one brought in are removed; null: none"
    )
    keep_labels: bool = Field(True, description="validated_replies of removed days (redacted) stay; false: they go too")


class Profile(_Frozen):
    """All settings of one home folder."""

    profile: str
    seed: int = 0
    launcher: LauncherSettings = LocalSettings()
    launchers: dict[str, LauncherSettings] = Field({}, description="more launchers, by the name that `jobs` uses")
    jobs: dict[str, JobSettings] = Field({}, description="job -> its launcher and what it needs from it")
    plan: PlanSettings = PlanSettings()
    pages_url: str = Field(
        PAGES_URL, description="where the lake's HTML pages are served: `rluf ui` does it if this is on loopback"
    )
    production: SimulatedSettings | LoggedSettings = Field(discriminator="kind")
    retention: RetentionSettings = RetentionSettings()
    validated_replies: ContractConfig = ContractConfig()
    signal_audit: SignalAuditConfig = SignalAuditConfig()
    signal_set: SignalSetConfig = SignalSetConfig()
    preference_pairs: PairsConfig = PairsConfig(source="")
    evaluation_prompts: PromptsConfig = PromptsConfig()
    base_policy: BasePolicyConfig = BasePolicyConfig()
    p_love: RewardConfig
    helpfulness_reward: RewardConfig
    safety_reward: RewardConfig
    crraft_policy: dict[str, Any] = Field({}, description="what all candidates share; an entry lays its keys over it")
    offline_evaluation: EvaluationConfig = EvaluationConfig()
    reward_hacking_audit: HackingAuditConfig = HackingAuditConfig()
    ab_plan: AbPlan = Field(AbPlan(), description="what A/B tests are judged by; written before users meet a candidate")
    ab_test_readout: ReadoutConfig = ReadoutConfig()
    offline_online_backtest: BacktestConfig = BacktestConfig()
    off_policy_evaluation: OffPolicyConfig = OffPolicyConfig()
    release_report: ReleaseConfig = ReleaseConfig()

    @model_validator(mode="before")
    @classmethod
    def _lengths_follow(cls, values: Any) -> Any:
        """Replies that are evaluated or shown to users are as long as those that are learned from, unless set."""
        shared = values.get("crraft_policy") if isinstance(values, Mapping) else None
        length = shared.get("max_new_tokens") if isinstance(shared, Mapping) else None
        if length is None:
            return values
        follow: dict[str, Any] = {"offline_evaluation": {"max_new_tokens": length}}
        if isinstance(made := values.get("production"), Mapping) and made.get("kind") == "simulated":
            follow["production"] = {"kind": "simulated", "ab_test": {"max_new_tokens": length}}
        return _merge(follow, values)

    @model_validator(mode="before")
    @classmethod
    def _users_are_judged_by(cls, values: Any) -> Any:
        """The signals that tell adversarial users are those of the signal set, for its prompts too, unless set."""
        if not isinstance(values, Mapping):
            return values
        sections = [values.get(name) or {} for name in ("signal_set", "validated_replies", "signal_audit")]
        if not all(isinstance(section, Mapping) for section in sections):
            return values
        made, labelled, audited = sections
        polarity, known = audited.get("polarity", POLARITY), labelled.get("signals", SIGNALS)
        try:
            counted = judging_signals(
                made.get("signal", SignalSetConfig.model_fields["signal"].default), known, polarity
            )
        except (AttributeError, TypeError):  # settings of another kind, which their own section names
            return values
        follow = {"adversarial": {"signals": counted}}
        return _merge({"signal_set": follow, "evaluation_prompts": follow}, values)

    @model_validator(mode="before")
    @classmethod
    def _plan_holds_what_decides(cls, values: Any) -> Any:
        """How metrics are defined, and what the audit and the offline gates tolerate, decides a test as its plan does: it is
        part of it, so that none of it can be chosen after the exposures."""
        if not isinstance(values, Mapping) or not isinstance(plan := values.get("ab_plan") or {}, Mapping):
            return values
        if "measured_by" in plan:
            raise ValueError(
                "ab_plan.measured_by: filled in from ab_test_readout, reward_hacking_audit and release_report"
            )
        report = values.get("release_report")
        margins = report.get("non_inferior") if isinstance(report, Mapping) else None
        found = {
            "ab_test_readout": values.get("ab_test_readout"), "reward_hacking_audit": values.get("reward_hacking_audit"),
            "non_inferior": margins,
        }  # fmt: skip
        said = {name: section for name, section in found.items() if isinstance(section, Mapping) and section}
        return {**values, "ab_plan": {**plan, "measured_by": said}} if said else values

    @model_validator(mode="after")
    def _lengths_agree(self) -> Profile:
        length = self.crraft_policy.get("max_new_tokens", OptimisationConfig.model_fields["max_new_tokens"].default)
        if isinstance(length, int):
            self.check_length(length, "crraft_policy")
        return self

    def check_length(self, max_new_tokens: int, where: str) -> None:
        """Raise ConfigError where replies of that many tokens, learned from, would be cut or unread elsewhere."""
        evaluated = {"offline_evaluation": self.offline_evaluation.max_new_tokens}
        if isinstance(self.production, SimulatedSettings) and "max_new_tokens" in self.production.ab_test:
            evaluated["production.ab_test"] = self.production.ab_test["max_new_tokens"]
        for stage, length in evaluated.items():
            if length < max_new_tokens:
                raise ConfigError(
                    f"{where}.max_new_tokens {max_new_tokens}, {stage}.max_new_tokens {length}: the replies learned from are "
                    f"longer than those judged. Leave {stage}.max_new_tokens out (it follows crraft_policy), or raise it."
                )
        room = {"base_policy.max_positions": self.base_policy.max_positions} if not self.base_policy.checkpoint else {}
        models = {
            "p_love": self.p_love,
            "helpfulness_reward": self.helpfulness_reward,
            "safety_reward": self.safety_reward,
        }
        room |= {f"{name}.max_length": model.max_length for name, model in models.items()}
        for setting, tokens in room.items():
            if tokens <= max_new_tokens:
                raise ConfigError(
                    f"{where}.max_new_tokens {max_new_tokens}, {setting} {tokens}: a reply would leave no room for its "
                    f"prompt. Raise {setting}, or lower max_new_tokens."
                )

    @model_validator(mode="after")
    def _known_jobs_and_launchers(self) -> Profile:
        check_jobs(self.jobs, self.launchers)
        return self

    @model_validator(mode="after")
    def _dated_or_not(self) -> Profile:
        logged, time = self.production, self.validated_replies.time
        if isinstance(logged, LoggedSettings) and logged.dated != (time == "logged"):
            raise ValueError(
                f"production.dated is {logged.dated} and validated_replies.time is {time!r}: a source without times has "
                "dated: false and time: none, one with times neither"
            )
        return self

    @model_validator(mode="after")
    def _one_plan(self) -> Profile:
        for section in ("ab_test_readout", "release_report"):
            if "plan" in getattr(self, section).model_fields_set:
                raise ValueError(f"{section}.plan: expected the plan under ab_plan, where every stage reads it")
        if "adversarial" in self.ab_test_readout.model_fields_set:
            raise ValueError("ab_test_readout.adversarial: expected it under signal_set, whose filter both arms get")
        return self

    @property
    def readout(self) -> ReadoutConfig:
        """The A/B readout under this home's plan, with the filter of users of its signal set."""
        update = {"plan": self.ab_plan, "adversarial": self.signal_set.adversarial}
        return self.ab_test_readout.model_copy(update=update)

    @property
    def first_day(self) -> str:
        return self.production.first_day.isoformat()

    @property
    def end_day(self) -> str | None:
        """The day after the last one, or None where a new day comes every day."""
        days = self.production.period_days if isinstance(self.production, LoggedSettings) else self.production.days
        return None if days is None else (self.production.first_day + timedelta(days=days)).isoformat()


def packaged(name: str) -> Traversable:
    """The packaged YAML of a profile (or `candidates`). Raises ConfigError naming the profiles there are."""
    known = sorted(
        entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if entry.name.endswith(".yaml")
    )
    if name not in known:
        profiles = [entry for entry in known if entry != "candidates"]
        raise ConfigError(f"profile {name!r}: unknown; expected one of {', '.join(profiles)}. Name one with --profile.")
    return files(__name__).joinpath(f"{name}.yaml")


def load_profile(home: Path, name: str | None = None, *, changes: Mapping[str, Any] | None = None) -> Profile:
    """The profile that `rluf.yaml` in the home folder names, under the file's other keys, under the environment's.

    `RLUF__signal_set__user_cap=7` sets `signal_set.user_cap`; values are YAML. `name`, if given, is taken for the
    packaged profile. `changes` are laid over everything else: what the settings would be with them.
    """
    settings_file = home / SETTINGS_FILE
    own = _mapping(settings_file.read_text(), str(settings_file)) if settings_file.exists() else {}
    set_here = environment_settings(os.environ)
    over = _merge(own, set_here)
    name = name or str(over.get("profile", "laptop"))
    ground = _ground(name, over)
    places = [str(settings_file)] * bool(own) + [f"environment ({ENVIRONMENT_PREFIX}...)"] * bool(set_here)
    places += ["the changes asked for"] * bool(changes)
    merged = _merge(_merge(ground, over), changes or {})
    if "production" not in merged:
        raise ConfigError(
            f"profile {name}: knows no logs of its own. Say where yours are, under `production` in {settings_file} "
            "(`rluf init` writes that file, docs/your-own-logs.md explains it)."
        )
    return _validate(Profile, {**merged, "profile": name}, " and ".join(places) or f"profile {name}")


def _ground(name: str, over: Mapping[str, Any]) -> dict[str, Any]:
    """The packaged profile; its part `simulated` (use cases, the design of tests) only under a simulated production."""
    ground = _mapping(packaged(name).read_text(), f"profile {name}")
    simulated = ground.pop("simulated", {})
    production = _merge(ground, over).get("production")
    return (
        _merge(ground, simulated) if isinstance(production, dict) and production.get("kind") == "simulated" else ground
    )


def environment_settings(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings that environment variables hold, as a tree. Raises ConfigError for a value that is not YAML."""
    tree: dict[str, Any] = {}
    for variable in sorted(name for name in environment if name.startswith(ENVIRONMENT_PREFIX)):
        *place, last = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        here = tree
        for part in place:
            here = here.setdefault(part, {})
            if not isinstance(here, dict):
                raise ConfigError(f"{variable}: {part!r} is set whole by another variable. Remove one of the two.")
        try:
            here[last] = yaml.safe_load(environment[variable])
        except yaml.YAMLError as error:
            raise ConfigError(f"{variable}: not YAML ({error}).") from error
    return tree


def load_candidates(home: Path) -> dict[str, dict[str, Any]]:
    """Candidate name -> what it changes in the profile's `crraft_policy` settings (weights first of all)."""
    path = home / CANDIDATES_FILE
    text = path.read_text() if path.exists() else packaged("candidates").read_text()
    candidates = _mapping(text, str(path)).get("candidates")
    if not isinstance(candidates, dict) or not candidates:
        raise ConfigError(f"{path}: expected a key `candidates` with at least one entry, found {candidates!r}.")
    return {str(name): dict(entry or {}) for name, entry in candidates.items()}


def candidate_config(home: Path, name: str, ground: Mapping[str, Any]) -> OptimisationConfig:
    """Settings of one candidate. Raises ConfigError for a partition key that is not in candidates.yaml."""
    candidates = load_candidates(home)
    if name not in candidates:
        raise ConfigError(
            f"candidate {name!r}: not in {home / CANDIDATES_FILE}, which has {', '.join(candidates)}. Add an entry "
            "with its weights, or delete the partition."
        )
    merged = _merge(ground, candidates[name])
    return _validate(OptimisationConfig, merged, f"{home / CANDIDATES_FILE}: candidate {name!r}")


def _mapping(text: str, source: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML ({error}).") from error
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{source}: expected keys and values, found {type(value).__name__}.")
    return value or {}


def _merge(ground: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `ground`, mapping by mapping; objective weights, and settings of another kind, are replaced whole."""
    merged = dict(ground)
    for key, value in over.items():
        here = merged.get(key)
        if isinstance(value, Mapping) and isinstance(here, Mapping) and key != "weights":
            same_kind = value.get("kind", here.get("kind")) == here.get("kind")
            merged[key] = _merge(here, value) if same_kind else value
        else:
            merged[key] = value
    return merged


def _validate(model: type[Settings], values: Mapping[str, Any], source: str) -> Settings:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}:\n" + "\n".join(_problems(model, error))) from error


def _problems(model: type[BaseModel], error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        place = [str(part) for part in problem["loc"]]
        message = f"  {'.'.join(place) or 'settings'}: {problem['msg']}"
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(place[-1], _known_keys(model, place[:-1]), n=1)
            message += f"; did you mean {near[0]!r}?" if near else ""
        elif problem["type"] != "missing" and not isinstance(problem["input"], dict):
            message += f"; found {problem['input']!r}"
        yield message


def _known_keys(annotation: Any, place: list[str]) -> list[str]:
    """Keys of the settings class at a place in the tree; a place names the kind where there are several."""
    arguments = get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not place:
            return list(annotation.model_fields)
        field = annotation.model_fields.get(place[0])
        return _known_keys(field.annotation, place[1:]) if field else []
    if get_origin(annotation) is Annotated:
        return _known_keys(arguments[0], place)
    if get_origin(annotation) is dict:
        return _known_keys(arguments[1], place[1:]) if place else []
    for model in arguments:
        kind = model.model_fields.get("kind") if isinstance(model, type) and issubclass(model, BaseModel) else None
        if kind and place and place[0] in get_args(kind.annotation):
            return _known_keys(model, place[1:])
    return next((keys for model in arguments if (keys := _known_keys(model, place))), [])
