"""Job: score past policies' texts and candidates' live replies, and set both against what users did.

Inputs: `past_launches`, `evaluation_prompts`, `reward`, `signal_set` and, of candidates that were live,
`ab_exposures/<candidate>`.
Run: python -m rluf_assets.jobs.offline_online_backtest SPEC.json
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rluf_assets.jobs._folders import folders_of
from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced, write_json

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from rluf_assets.evaluation.config import BacktestConfig
    from rluf_assets.evaluation.transport import LiveSlice
    from rluf_assets.rewards.scoring import RewardModel


def run(job: Job) -> Produced:
    """Write `backtest.parquet`, `summary.json`, `texts_scored.parquet` and `transport.parquet`."""
    import polars as pl

    from rluf_assets.distributed import device
    from rluf_assets.evaluation.backtest import backtest
    from rluf_assets.evaluation.config import BacktestConfig
    from rluf_assets.evaluation.frames import read_parquet, require_columns
    from rluf_assets.evaluation.logged_arms import backtest_arms
    from rluf_assets.evaluation.trained_rows import leave_out_texts
    from rluf_assets.evaluation.transport import TRANSPORT, LiveSlice, transport_row
    from rluf_assets.rewards.scoring import RewardModel

    config = BacktestConfig.model_validate(job.config)
    launches = read_parquet(job.input("past_launches") / "launches.parquet")
    texts = read_parquet(job.input("past_launches") / "texts.parquet")
    require_columns("past_launches texts", texts, ("policy", "prompt_id", "completion"))
    train = pl.scan_parquet(job.input("signal_set") / "train.parquet")
    own_prompts = "prompt" in texts.columns  # of logged arms: every reply has the prompt that it answered
    left_out = 0
    if not own_prompts:
        texts = _with_prompts(texts, read_parquet(job.input("evaluation_prompts") / "prompts.parquet"))
        texts, left_out = leave_out_texts(texts, train)
    model = RewardModel.load(job.input("reward"), device=device())
    texts = texts.sort("policy", "prompt_id", "completion")
    job.progress(0, 2, f"scoring {len(texts)} texts of past policies")
    scored = _scored(texts, model, config)
    live: dict[str, LiveSlice] = {}
    if own_prompts:
        result = backtest_arms(launches, scored, config, seed=job.seed)
        arms = scored.rename({"prompt_id": "reply_id"}).partition_by("policy", as_dict=True)
        live = {str(arm): LiveSlice(frame) for (arm,), frame in arms.items()}
    else:
        result = backtest(launches, scored, config, seed=job.seed, left_out=left_out)
    job.progress(1, 2, result.summary["sentence"])
    users = train.select("user_id").unique().collect().to_series()
    for candidate, folder in folders_of(job, "ab_exposures", required=False).items():
        found = _live_slice(folder, users, model, config)
        live |= {} if found is None else {candidate: found}
    rows = [transport_row(name, live[name], config.confidence) for name in sorted(live)]
    result.policies.write_parquet(job.out / "backtest.parquet")
    scored.drop("prompt", "completion").write_parquet(job.out / "texts_scored.parquet")
    pl.DataFrame(rows, schema=TRANSPORT).write_parquet(job.out / "transport.parquet")
    write_json(str(job.out / "summary.json"), result.summary)
    job.progress(2, 2, f"{len(rows)} live slices read")
    shown = {k: v for k, v in result.summary.items() if isinstance(v, int | float | str)}
    counts = {"backtest": len(result.policies), "texts_scored": len(scored), "transport": len(rows)}
    return Produced(rows=counts, metrics=shown)


def _scored(texts: pl.DataFrame, model: RewardModel, config: BacktestConfig) -> pl.DataFrame:
    import polars as pl

    from rluf_assets.rewards.calibration import strata_of

    names = ("logit", "probability", "live_probability")
    if texts.is_empty():
        return texts.with_columns(pl.lit(None, pl.Float64).alias(name) for name in names)
    found = model.score(
        texts["prompt"].to_list(),
        texts["completion"].to_list(),
        batch_tokens=config.batch_tokens,
        strata=strata_of(texts),
    )
    return texts.hstack(found.select(names))


def _live_slice(folder: Path, train_users: pl.Series, model: RewardModel, config: BacktestConfig) -> LiveSlice | None:
    """What users met of a candidate, scored; None where its exposures do not say which replies these were."""
    import polars as pl

    from rluf_assets.evaluation.exposures import FILTER, flags, user_ids
    from rluf_assets.evaluation.frames import read_parquet, require_columns
    from rluf_assets.evaluation.trained_rows import clean_slice
    from rluf_assets.evaluation.transport import LiveSlice
    from rluf_assets.feedback.sampling import stable_uniform

    paths, signal = [folder / name for name in ("exposed_replies.parquet", "replies.parquet")], model.calibration.signal
    if not all(path.exists() for path in paths):
        return None
    shown, texts = (read_parquet(path) for path in paths)
    require_columns(f"exposed replies in {folder}", shown, ("user_id", "reply_id", signal))
    require_columns(f"replies in {folder}", texts, ("reply_id", "prompt", "completion"))
    users = read_parquet(folder / "exposures.parquet") if (folder / "exposures.parquet").exists() else shown
    where = f"exposures in {folder}"
    require_columns(where, users, ("user_id",))
    users = users.with_columns(user_ids(where, users), *flags(where, users))
    shown = shown.with_columns(user_ids(where, shown), pl.col("reply_id").cast(pl.String))
    texts = texts.with_columns(pl.col("reply_id").cast(pl.String))
    if FILTER in users.columns:
        shown = shown.join(users.filter(FILTER), on="user_id", how="anti")
    clean = clean_slice(shown.select("user_id", "reply_id", label=signal), train_users, config.kept_out_share)
    drawn = clean.replies.select("reply_id").unique().sort(stable_uniform("reply_id", 0), "reply_id")
    texts = texts.join(drawn.head(config.live_replies), on="reply_id", how="semi").sort("reply_id")
    scored = _scored(texts, model, config).select("reply_id", "live_probability")
    # A reply without a text has no prediction, and is found out by that.
    kept = clean.replies.join(drawn.head(config.live_replies), on="reply_id", how="semi")
    return LiveSlice(kept.join(scored, on="reply_id", how="left"), clean.left_out)


def _with_prompts(texts: pl.DataFrame, prompts: pl.DataFrame) -> pl.DataFrame:
    """Texts with their prompts and their weights; raises DataError for a prompt that is not in the current ones."""
    from rluf_assets.errors import DataError
    from rluf_assets.evaluation.frames import prompt_weight

    about = [
        name for name in ("use_case", "turn_index", "user_id") if name in prompts.columns and name not in texts.columns
    ]
    known = prompts.select("prompt_id", "prompt", *about, prompt_weight(prompts))
    joined = texts.join(known, on="prompt_id", how="left", maintain_order="left")
    if unknown := joined["prompt"].null_count():
        raise DataError(
            f"past_launches texts: found {unknown} texts whose prompt is not in evaluation_prompts, expected none. "
            "Replay the past policies on the current evaluation prompts."
        )
    return joined


if __name__ == "__main__":
    main(run)
