"""Configuration of the feedback stages, one frozen model per job; free of heavy imports, so the control plane reads it.

`version` is part of a job's fingerprint: raise it whenever the same config and inputs would give another result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import ClassVar, Literal, Self
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SIGNALS = ("love", "thumbs_up", "thumbs_down", "copy", "regenerate")
Polarity = Literal[-1, 0, 1]
# +1: the user liked the reply; -1: the user disliked it; 0: says neither.
POLARITY: dict[str, Polarity] = {"love": 1, "thumbs_up": 1, "thumbs_down": -1, "copy": 1, "regenerate": -1}
# What users do with replies, however honest they are: who copies all of them works with them.
ACTS = frozenset({"copy", "regenerate"})


def judging_signals(signal: str, known: Iterable[str], polarity: Mapping[str, Polarity]) -> tuple[str, ...]:
    """The signal that is trained on and its opposites among the known ones, without what users merely do."""
    sign = polarity.get(signal, 0)
    against = (one for one in known if one not in ACTS and polarity.get(one, 0) * sign < 0)
    return (signal, *against)


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


FORMATS = ("canonical", "messages", "sharegpt", "langfuse", "langsmith", "otel", "open_webui")
Format = Literal["canonical", "messages", "sharegpt", "langfuse", "langsmith", "otel", "open_webui"]


class ScoreRule(_Config):
    """What a numeric score of one name means: which signals it sets. In between the bounds it revokes both."""

    up: str | None = Field(None, description="signal that a high score sets, e.g. thumbs_up")
    down: str | None = Field(None, description="signal that a low score sets, e.g. thumbs_down")
    up_from: float = 1.0
    down_to: float = Field(0.0, description="-1 where 0 is neutral")


class MessagesLayout(_Config):
    """Where the fields of a `messages` JSONL are, and what scores mean.

    Defaults fit OpenAI chat logs; ShareGPT needs no change either.
    """

    columns: dict[str, str] = Field({}, description="canonical column -> column of the source, where names differ")
    messages: tuple[str, ...] = Field(("messages", "conversations"), description="first of these that is there")
    role: tuple[str, ...] = ("role", "from")
    content: tuple[str, ...] = ("content", "value", "parts")
    roles: dict[str, str] = {"human": "user", "gpt": "assistant", "bing": "assistant", "chatgpt": "assistant"}
    marks: str = Field("marks", description="field of a message: {signal: 0|1}")
    reactions: str = Field("reactions", description="field of a message: [{signal, value?, user_id?, reacted_at?}]")
    ratings: dict[str, dict[str, str]] = Field(
        {}, description="field of a message that holds one of some words: {word: signal that it sets}"
    )
    labels: dict[str, ScoreRule] = Field(
        {name: ScoreRule(up="thumbs_up", down="thumbs_down") for name in ("label", "kto_tag")},
        description="column with one label per conversation (KTO) -> its meaning, a signal of the last reply; by default true "
        "and false only, since a number may be the class of something else",
    )  # fmt: skip
    users: Literal["logged", "per_conversation"] = Field(
        "logged", description="per_conversation: the source has no user ids; each conversation counts as one user"
    )
    folded: Literal["removed", "kept"] = Field(
        "removed", description="what Open WebUI folds away in a reply: reasoning, tool calls, code that was run"
    )
    scores: dict[str, ScoreRule] = Field(
        {}, description="score name -> its meaning (Langfuse, LangSmith, OTel); others are signals by their own name"
    )
    time_zone: str = Field("UTC", description="zone of times that name none, and of the days of `{day}` in a source")

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value != "UTC" and value not in available_timezones():
            raise ValueError(f"time_zone {value!r}: no such zone. Give a name like Europe/Berlin")
        return value


class IngestConfig(_Config):
    """One raw table of one day: where the rows are, and in which format."""

    version: ClassVar[str] = "7"
    format: Format = "canonical"
    table: Literal["messages", "reactions"]
    source: str = Field(description="path, glob or URL; {day} stands for the partition's date")
    day: date | None = Field(None, description="None: the source has no days and becomes one partition")
    layout: MessagesLayout = MessagesLayout()
    undated: Literal["keep", "other"] = Field(
        "keep", description="rows without a time in a file of several days: `other` for all but the first one asked for"
    )
    user_ids: Literal["hashed", "raw"] = Field("hashed", description="raw: hash them with the salt on the way in")
    salt_env: str = Field("RLUF_USER_SALT", description="environment variable that holds the salt (never the salt)")
    if_missing: Literal["error", "empty"] = Field("error", description="what no file at `source` means")


class RedactionConfig(_Config):
    """Secrets and personal data in texts (`redaction.py` names the kinds) become typed placeholders."""

    enabled: bool = True
    phone_regions: tuple[str, ...] = Field(
        ("US", "GB", "DE", "FR"), description="countries whose phone numbers are known without their country code"
    )


class BurstConfig(_Config):
    """Scripted bursts: more reactions of one user in a short time than a hand gives."""

    reactions: int = Field(20, ge=2)
    within_s: float = Field(10.0, gt=0)


class ContractConfig(_Config):
    """The row contract and the labels of one partition of replies."""

    version: ClassVar[str] = "8"
    day: date | None = None
    signals: tuple[str, ...] = SIGNALS
    attribution_window_h: float = Field(24.0, gt=0)
    as_of: datetime | None = Field(None, description="what was known then; None: all windows are closed")
    time: Literal["logged", "none"] = "logged"
    undated_reactions: Literal["at_message", "drop_as_unknown"] | None = Field(
        None, description="reactions without a time of their own in a log that has times; at_message: they count at "
        "their message's time; drop_as_unknown: their replies' labels are unknown; null: the same, and a log in which "
        "most reactions have no time is refused until one of the two is declared",
    )  # fmt: skip
    exposure: Literal["logged", "all_shown"] = Field(
        "logged", description="all_shown: declares that every reply offered the reactions (the source does not say)"
    )
    max_chars: int = Field(32_000, ge=1, description="longer text is quarantined, cut to this length")
    redaction: RedactionConfig = RedactionConfig()
    burst: BurstConfig = BurstConfig()

    @field_validator("as_of")
    @classmethod
    def _utc(cls, value: datetime | None) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    @field_validator("signals")
    @classmethod
    def _some_signals(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError(f"signals {value}: expected at least one name, each once")
        return value

    @property
    def attribution_window(self) -> timedelta:
        return timedelta(hours=self.attribution_window_h)

    @property
    def window_days(self) -> int:
        """How many days beside its own a reply's attribution window reaches into, and a reaction back from."""
        return max(1, math.ceil(self.attribution_window_h / 24))


class AdversarialConfig(_Config):
    """Users who, over some trailing days, judge nearly everything they are shown: their rows of those days say nothing."""

    enabled: bool = Field(
        True, description="false: where marking every reply was the users' task, it tells nothing of them"
    )
    signals: tuple[str, ...] | None = Field(
        None, min_length=1, description="what counts as judging; null: the signal of the signal set and its opposites by "
        "`signal_audit.polarity`, without copy and regenerate, which honest users do often",
    )  # fmt: skip
    min_shown: int = Field(20, ge=1, description="replies shown within the trailing days whose labels are known")
    min_reacted_share: float = Field(0.8, gt=0, le=1)
    trailing_days: int = Field(
        28, ge=1, description="days that are condemned together; sources without times: the whole of them"
    )


class SignalAuditConfig(_Config):
    """Stage 1: which signal deserves trust."""

    version: ClassVar[str] = "6"
    signals: tuple[str, ...] = SIGNALS
    polarity: dict[str, Polarity] = Field(POLARITY, description="what each signal claims to mean")
    return_days: int = Field(14, ge=1)
    adversarial: AdversarialConfig = AdversarialConfig()
    user_cap: int = Field(50, ge=1, description="positives counted per user in the effective sample")
    min_positives: int = Field(500, ge=1, description="effective positives below which a signal is too rare")
    min_purity: float = Field(0.8, ge=0.5, le=1)
    max_adversarial_share: float = Field(0.5, gt=0, le=1)
    confidence: float = Field(0.95, gt=0, lt=1)

    @model_validator(mode="after")
    def _polarity_known(self) -> Self:
        absent = [signal for signal in self.signals if signal not in self.polarity]
        if absent:
            raise ValueError(f"polarity: no entry for {absent}; found {sorted(self.polarity)}. Give -1, 0 or 1 each")
        return self


class SplitConfig(_Config):
    """The later, user-disjoint holdout, shared by the signal set and the evaluation prompts."""

    holdout_days: int = Field(10, ge=1, description="last days of the period: users first seen in them, and ...")
    established_share: float = Field(
        0.05, ge=0, lt=1, description="... of those seen before, this share: kept out of training for good"
    )
    holdout_share: float = Field(0.1, gt=0, lt=1, description="share of users, for sources without times")
    ctx_turns: int = Field(10, ge=1, description="user messages kept in a prompt, the last one included")
    adversarial: AdversarialConfig = AdversarialConfig()


class SignalSetConfig(SplitConfig):
    """Stage 2: the upsampled training set of one signal and its natural-rate holdout."""

    version: ClassVar[str] = "9"
    signal: str = "love"
    target_positive_rate: float = Field(0.1, gt=0, lt=1, description="share of positives, by sample_weight")
    min_positives: int = Field(10, ge=1, description="fewer to train on are an error that counts what became of all")
    user_cap: int = Field(
        50, ge=1, description="positives, and negatives, kept of one user; their weight is that of all of the user's"
    )
    max_train_rows: int = Field(1_000_000, ge=10)
    duplicates: Literal["per_user", "global", "keep"] = Field(
        "per_user",
        description="whose rows of the same use case, label, prompt and reply become one that weighs as much as all: "
        "each user's own, or everyone's",
    )
    near_duplicate: float | None = Field(
        0.9, gt=0.5, le=1, description="Jaccard similarity (three-word shingles of last message and reply) from which a "
        "row repeats an earlier one, within the scope of `duplicates`; null: only exact repeats count",
    )  # fmt: skip
    negatives: Literal["uniform", "matched"] = Field(
        "uniform", description="matched: by use case and turn index, as the positives are spread"
    )


class PairsConfig(_Config):
    """Expert preference pairs from files."""

    version: ClassVar[str] = "3"
    redaction: RedactionConfig = RedactionConfig()
    format: Literal["trl", "transcripts", "open_webui"] = Field(
        "trl",
        description="transcripts: '\\n\\nHuman: ...\\n\\nAssistant: ...'; open_webui: rated replies and siblings",
    )
    source: str = Field(
        "", description="path, glob or URL of Parquet or JSONL (plain, gzip, zstd); the production gives it"
    )
    eval_share: float = Field(0.15, gt=0, lt=1)
    max_chars: int = Field(32_000, ge=1)
    use_case: str | None = Field(None, description="use case of all pairs where the source has no such column")


class PromptsConfig(SplitConfig):
    """Fixed prompts: `optimisation` from the training period, `evaluation` from users of the holdout period, one of each."""

    version: ClassVar[str] = "7"
    optimisation_prompts: int = Field(2000, ge=1)
    evaluation_prompts: int = Field(500, ge=1)
    min_share: dict[str, float] = Field({}, description="use case -> least share of each split")

    @field_validator("min_share")
    @classmethod
    def _shares(cls, value: dict[str, float]) -> dict[str, float]:
        if any(not 0 < share <= 1 for share in value.values()) or sum(value.values()) > 1:
            raise ValueError(f"min_share {value}: expected shares in (0, 1] that add up to at most 1")
        return value
