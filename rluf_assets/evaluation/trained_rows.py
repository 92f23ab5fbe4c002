"""What P[signal] trained on is left out where it is tested: replies of past policies, and users of a live slice.

Nobody may be left out for what they did: the training set has all users who reacted and few of those who did not, so that
those who remain would be the cooler ones. A live slice with users of the training set in it is therefore read on those who
were never to be trained on, a share of all users that is drawn by their id alone.
"""

from __future__ import annotations

import polars as pl

from rluf_assets.evaluation.transport import LiveSlice
from rluf_assets.feedback.splits import kept_out_of_training
from rluf_assets.feedback.windows import prompt_keys


def leave_out_texts(texts: pl.DataFrame, train: pl.LazyFrame) -> tuple[pl.DataFrame, int]:
    """Texts without the prompts of training rows, of their users, or with a reply that was trained on; and how many are gone.

    A prompt goes for all policies, so that they still answer the same ones. train: message_id, user_id, prompt, completion.
    """
    ids = train.select("message_id").unique().collect().to_series()
    known = texts["prompt_id"].is_in(ids.implode())
    if "user_id" in texts.columns:
        users = train.select("user_id").unique().collect().to_series()
        known = known | texts["user_id"].is_in(users.implode()).fill_null(False)
    rows = train.filter(pl.col("completion").is_in(texts["completion"].unique().implode()))
    same = rows.select("prompt", "completion").collect()
    if same.height:
        keys = [frame.select("completion").with_columns(prompt_keys(frame["prompt"])) for frame in (texts, same)]
        equal, like = (frame.select(pl.struct("prompt_key", "completion").hash()).to_series() for frame in keys)
        known = known | equal.is_in(like.unique().implode())
    gone = texts.filter(known)["prompt_id"].unique()
    left = texts.filter(~pl.col("prompt_id").is_in(gone.implode()))
    return left, texts.height - left.height


def clean_slice(live: pl.DataFrame, train_users: pl.Series, kept_out_share: float) -> LiveSlice:
    """The live replies of users whom P[signal] does not know, chosen by their ids alone; and how many users are left out."""
    users = live["user_id"].unique()
    if not users.is_in(train_users.implode()).any():
        return LiveSlice(live)
    fresh = pl.DataFrame({"user_id": users}).filter(
        kept_out_of_training(kept_out_share), ~pl.col("user_id").is_in(train_users.implode())
    )
    return LiveSlice(live.join(fresh, on="user_id", how="semi"), len(users) - fresh.height)
