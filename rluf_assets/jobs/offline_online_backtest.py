"""Job: score past policies' texts and set the predicted changes against what users showed.

Inputs: `past_launches`, `evaluation_prompts`, `reward`.
Run: python -m rluf_assets.jobs.offline_online_backtest SPEC.json
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced, write_json

if TYPE_CHECKING:
    import polars as pl


def run(job: Job) -> Produced:
    """Write `backtest.parquet`, `summary.json` and `texts_scored.parquet`."""
    from rluf_assets.distributed import device
    from rluf_assets.evaluation.backtest import backtest
    from rluf_assets.evaluation.config import BacktestConfig
    from rluf_assets.evaluation.frames import read_parquet, require_columns
    from rluf_assets.evaluation.logged_arms import backtest_arms
    from rluf_assets.rewards.calibration import strata_of
    from rluf_assets.rewards.scoring import RewardModel

    config = BacktestConfig.model_validate(job.config)
    launches = read_parquet(job.input("past_launches") / "launches.parquet")
    texts = read_parquet(job.input("past_launches") / "texts.parquet")
    require_columns("past_launches texts", texts, ("policy", "prompt_id", "completion"))
    own_prompts = "prompt" in texts.columns  # of logged arms: every reply has the prompt that it answered
    if not own_prompts:
        texts = _with_prompts(texts, read_parquet(job.input("evaluation_prompts") / "prompts.parquet"))
    model = RewardModel.load(job.input("reward"), device=device())
    texts = texts.sort("policy", "prompt_id", "completion")
    job.progress(0, 1, f"scoring {len(texts)} texts of past policies")
    scores = model.score(
        texts["prompt"].to_list(),
        texts["completion"].to_list(),
        batch_tokens=config.batch_tokens,
        strata=strata_of(texts),
    )
    scored = texts.hstack(scores.select("logit", "probability", "live_probability"))
    result = (
        backtest_arms(launches, scored, config) if own_prompts else backtest(launches, scored, config, seed=job.seed)
    )
    result.policies.write_parquet(job.out / "backtest.parquet")
    scored.drop("prompt", "completion").write_parquet(job.out / "texts_scored.parquet")
    write_json(str(job.out / "summary.json"), result.summary)
    job.progress(1, 1, result.summary["sentence"])
    shown = {k: v for k, v in result.summary.items() if isinstance(v, int | float | str)}
    return Produced(rows={"backtest": len(result.policies), "texts_scored": len(scored)}, metrics=shown)


def _with_prompts(texts: pl.DataFrame, prompts: pl.DataFrame) -> pl.DataFrame:
    """Texts with their prompts and their weights; raises DataError for a prompt that is not in the current ones."""
    from rluf_assets.errors import DataError
    from rluf_assets.evaluation.frames import prompt_weight

    about = [name for name in ("use_case", "turn_index") if name in prompts.columns and name not in texts.columns]
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
