"""Fixed prompts from the logs: some to optimise on, later users' to evaluate on, with least shares per use case.

Prompts are contexts of real replies up to the user's last message, at most one per conversation, no two alike within or
across the splits; those to evaluate on are of different users, so that a prompt is one person's and intervals over prompts
are over users too.
A prompt keeps its weight in traffic: the share of the split's replies that it stands for, with its user's others and those
to the same words of others. Averages over prompts weighted by it are averages over replies, whatever the least shares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import polars as pl

from rluf_assets.errors import ConfigError, DataError
from rluf_assets.feedback.config import PromptsConfig
from rluf_assets.feedback.sampling import reply_uniform, thinned, uniforms
from rluf_assets.feedback.splits import HOLDOUT, TRAIN, split_users
from rluf_assets.feedback.windows import ConversationPool, prompt_keys

SPLITS = {HOLDOUT: "evaluation", TRAIN: "optimisation"}
COLUMNS = ["prompt_id", "user_id", "prompt", "use_case", "turn_index", "split", "weight"]
UNKNOWN = "unknown"
# Candidates drawn per wanted prompt: repeats and conversations already used take their part.
_RESERVE = 6
# One reply of a user is no good witness for a thousand of theirs: it stands for as many as this many others do at most.
_HEAVIEST = 10.0
_RACE = 0xCE


def build_prompts(replies: pl.LazyFrame, messages: pl.LazyFrame, config: PromptsConfig, *, seed: int) -> pl.DataFrame:
    """One row per fixed prompt: prompt_id (the message id of the reply it had), user_id, prompt, use_case, turn_index,
    split, weight (in traffic; 1 on average over a split).

    A use case with too few distinct prompts gives what it has. Raises ConfigError for a use case in `min_share` that
    the replies do not have, DataError where a split gets no prompt at all.
    """
    split = split_users(replies, config, seed)
    ids = ["message_id", "conversation_id", "user_id", "created_at", "turn_index", "use_case", "status"]
    staged = (
        split.attach(replies.select(ids))
        .with_columns(stage=split.stage(), use_case=pl.col("use_case").fill_null(UNKNOWN))
        .filter((pl.col("stage") == TRAIN) | ((pl.col("stage") == HOLDOUT) & pl.col("new_user")))
        .select(*ids[:-1], "stage")
    )
    counts = staged.group_by("stage", "use_case").len().collect(engine="streaming")
    quotas = pl.concat(_quotas(counts, stage, n, config.min_share) for stage, n in _sizes(config).items())
    drawn = (
        staged.join(quotas.lazy(), on=["stage", "use_case"])
        .with_columns(u=reply_uniform(seed))
        .filter(pl.col("u") < pl.col("bar"))
        .collect(engine="streaming")
        .sort("u", "conversation_id", "message_id")
    )
    # Of rows that become one, each stays with a probability proportional to its weight (the lowest of exponential numbers).
    rows = drawn.with_columns(weight=pl.col("there") / pl.len().over("stage", "use_case"))
    rows = rows.with_columns(race=-reply_uniform(seed ^ _RACE).log() / pl.col("weight"))
    rows = _one_of_each(rows, "stage", "conversation_id")
    asked = pl.col("stage") == HOLDOUT
    rows = pl.concat([rows.filter(~asked), _one_of_each(rows.filter(asked), "stage", "user_id")])
    rows = rows.with_columns(pl.min_horizontal("weight", _HEAVIEST * pl.col("weight").mean().over("stage")))
    rows = _up_to_the_user(ConversationPool(rows["conversation_id"], messages).contexts(rows, config.ctx_turns))
    rows = _one_of_each(rows.with_columns(prompt_keys(rows["prompt"])), "stage", "prompt_key")
    # Of two equal prompts the optimisation split gives way.
    taken = rows.filter(asked)["prompt_key"]
    rows = rows.filter(asked | ~pl.col("prompt_key").is_in(taken.implode()))
    parts = [_within_quota(part, seed) for _, part in rows.group_by("stage", "use_case", maintain_order=True)]
    kept = pl.concat([rows.head(0), *parts])
    found = kept.select(
        "user_id", "prompt", "use_case", "turn_index",
        (pl.col("weight") / pl.col("weight").mean().over("stage")).alias("weight"),
        prompt_id=_prompt_id(), split=pl.col("stage").replace_strict(SPLITS, return_dtype=pl.String),
    )  # fmt: skip
    absent = sorted(set(SPLITS.values()) - set(found["split"].unique()))
    if absent:
        raise DataError(f"evaluation prompts: no prompt for {absent}; found {counts.rows()}. Widen holdout_days.")
    return found.sort("split", "prompt_id").select(COLUMNS)


def _up_to_the_user(rows: pl.DataFrame) -> pl.DataFrame:
    """Prompts that end with the user's last message: the earlier part of a reply is no question."""
    is_user = pl.element().struct.field("role") == "user"
    after = pl.col("prompt").list.reverse().list.eval(is_user).list.arg_max().fill_null(0)
    return rows.with_columns(prompt=pl.col("prompt").list.head(pl.col("prompt").list.len() - after))


def _prompt_id() -> pl.Expr:
    """The id of the message, with its conversation's where several conversations number their messages alike."""
    both = pl.concat_str("conversation_id", "message_id", separator="/")
    return pl.when(pl.col("message_id").is_duplicated()).then(both).otherwise("message_id")


def _one_of_each(rows: pl.DataFrame, *alike: str) -> pl.DataFrame:
    """One row of those alike, with the weight of all of them."""
    summed = rows.with_columns(pl.col("weight").sum().over(alike)).sort("race", "conversation_id", "message_id")
    return summed.unique(alike, keep="first", maintain_order=True)


def _within_quota(rows: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The prompts of one split and use case: as many as asked for, which together weigh what all its replies do."""
    quota, there, rows = rows["quota"][0], rows["there"][0], rows.sort("race", "conversation_id", "message_id")
    start = float(uniforms(pl.Series([f"{rows['stage'][0]}/{rows['use_case'][0]}"]), seed)[0])
    weights = (
        thinned(rows["weight"].to_numpy(), rows["race"].to_numpy(), quota, start) if quota else 0.0 * rows["weight"]
    )
    kept = rows.with_columns(weight=pl.Series(weights)).filter(pl.col("weight") > 0)
    return kept.with_columns(pl.col("weight") * there / pl.col("weight").sum())


def allocate(counts: Mapping[str, int], n: int, min_share: Mapping[str, float]) -> dict[str, int]:
    """Share `n` prompts out over use cases: by natural frequency, none below its least share, adding up to `n`."""
    floors = {name: math.ceil(share * n - 1e-9) for name, share in min_share.items()}
    lifted: dict[str, int] = {}
    while True:
        rest = {name: count for name, count in counts.items() if name not in lifted}
        left, total = n - sum(lifted.values()), sum(rest.values())
        ideal = {name: left * count / total for name, count in rest.items()} if total else {}
        below = {name: floors[name] for name in rest if ideal[name] < floors.get(name, 0)}
        if not below:
            break
        lifted |= below
    whole = {name: math.floor(share) for name, share in ideal.items()}
    by_remainder = sorted(ideal, key=lambda name: (whole[name] - ideal[name], name))
    for name in by_remainder[: max(0, left - sum(whole.values()))]:
        whole[name] += 1
    return lifted | whole


def _sizes(config: PromptsConfig) -> dict[str, int]:
    return {HOLDOUT: config.evaluation_prompts, TRAIN: config.optimisation_prompts}


def _quotas(counts: pl.DataFrame, stage: str, n: int, min_share: Mapping[str, float]) -> pl.DataFrame:
    natural = dict(counts.filter(pl.col("stage") == stage).sort("use_case").select("use_case", "len").iter_rows())
    unknown = sorted(set(min_share) - set(counts["use_case"]))
    if unknown:
        known = sorted(set(counts["use_case"]))
        raise ConfigError(
            f"evaluation_prompts.min_share: the logs have no use case {unknown}; known are {known}. Mend the names, or leave "
            "min_share out."
        )
    wanted = allocate(natural, n, {name: share for name, share in min_share.items() if name in natural})
    rows = [
        (stage, name, quota, min(1.0, _RESERVE * quota / natural[name]), natural[name])
        for name, quota in wanted.items()
    ]
    schema = {"stage": pl.String, "use_case": pl.String, "quota": pl.Int64, "bar": pl.Float64, "there": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")
