"""Play a live A/B arm: a candidate answers fresh traffic, the truth reads it, simulated users react and return.

python -m rluf_assets.jobs.play_ab_test SPEC.json     (input: policy, a Hugging Face causal-LM folder)
"""

from __future__ import annotations

from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced, write_json


def run(job: Job) -> Produced:
    import polars as pl

    from rluf_assets.distributed import device
    from rluf_assets.policy.engine import TransformersEngine
    from rluf_assets.simulation import live
    from rluf_assets.simulation.config import LiveTestConfig
    from rluf_assets.simulation.contexts import draw_contexts
    from rluf_assets.simulation.production import LIVE_STREAM

    config = LiveTestConfig.model_validate(job.config)
    contexts = draw_contexts(config, job.seed, LIVE_STREAM)
    engine = TransformersEngine(job.input("policy"), device=device())
    prompts, replies = contexts["prompt"].to_list(), []
    for start in range(0, len(prompts), config.batch_contexts):
        batch = prompts[start : start + config.batch_contexts]
        sampled = engine.sample(
            batch, n=1, max_new_tokens=config.max_new_tokens, temperature=config.temperature, seed=job.seed
        )
        replies += [completions[0].text for completions in sampled]
        job.progress(len(replies), len(prompts), "replies")
    text = live.read_replies(contexts, replies)
    rates = live.true_rates(contexts, text)
    exposures, shown = live.expose(contexts, text, config, job.seed, LIVE_STREAM)
    written = contexts.select("context_id", "use_case", "turn_index", "prompt", reply_id="context_id")
    written = written.with_columns(pl.Series("completion", replies))
    written.write_parquet(job.out / "replies.parquet", compression="zstd")
    rates.write_parquet(job.out / "true_rates.parquet", compression="zstd")
    exposures.write_parquet(job.out / "exposures.parquet", compression="zstd")
    shown.write_parquet(job.out / "exposed_replies.parquet", compression="zstd")
    write_json(str(job.out / "rates.json"), live.mean_rates(rates))
    return Produced(
        rows={"exposures": len(exposures), "true_rates": len(rates)}, metrics=dict(live.summary(rates, exposures))
    )


if __name__ == "__main__":
    main(run)
