"""Phase *select*: which replies the update learns from, with what weight, and per reply and prompt why.

Each prompt group is handed to the optimiser as plain arrays (batch.py). Log-ratios are computed only for replies the
optimiser asks about and for a seeded sample of all completions, which the KL figures of the record come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import polars as pl

from rluf_assets.distributed import ALONE, Ranks
from rluf_assets.policy import codpo, crpg, crraft, raft
from rluf_assets.policy.batch import BASELINE, Batch, Reply, Selection
from rluf_assets.policy.config import OptimisationConfig, PromptGroup
from rluf_assets.policy.engine import Completion, TransformersEngine
from rluf_assets.policy.phases import matrix

SELECT: dict[str, Callable[[Batch], Selection]] = {
    "crraft": crraft.select,
    "raft": raft.select,
    "crpg": crpg.select,
    "codpo": codpo.select,
}
SlowJudge = Callable[[Sequence[Sequence[dict[str, str]]], Sequence[str]], np.ndarray]


@dataclass
class LogRatios:
    """log pi(a|s) - log pi_ref(a|s) of one iteration's replies, each computed once, in as few passes as there can be.

    Completions carry their log-probability under the policy that sampled them, baseline replies theirs under the
    reference policy; only the other half is computed here. `also`: rows whose log-ratio is wanted in any case, computed
    with the first that are asked for.
    """

    policy: TransformersEngine
    reference: TransformersEngine
    rows: pl.DataFrame
    config: OptimisationConfig
    ranks: Ranks = ALONE
    also: Sequence[int] = ()
    known: dict[int, float] = field(default_factory=dict)

    def of(self, places: Sequence[int]) -> np.ndarray:
        """Log-ratios of the rows at `places`."""
        missing = sorted({place for place in (*places, *self.also) if place not in self.known})
        for engine, baseline in ((self.reference, False), (self.policy, True)):
            asked = [i for i in missing if (self.rows["completion_id"][i] == BASELINE) == baseline]
            if not asked:
                continue
            rows = self.rows[asked]
            other = np.array(self.ranks.spread(len(asked), partial(self._logprobs, engine, rows), in_step=True))
            ratio = (other - rows["logprob"].to_numpy()) * (1 if baseline else -1)
            self.known.update(zip(asked, ratio.tolist(), strict=True))
        return np.array([self.known[place] for place in places], dtype=np.float64)

    def _logprobs(self, engine: TransformersEngine, rows: pl.DataFrame, share: list[int]) -> list[float]:
        mine = rows[share]
        return engine.logprobs(
            mine["prompt"].to_list(),
            completions_of(mine),
            max_new_tokens=self.config.max_new_tokens,
            batch_tokens=self.config.forward_tokens,
        ).tolist()


def completions_of(rows: pl.DataFrame) -> list[Completion]:
    """The replies of a sample frame."""
    columns = rows.select("completion", "token_ids", "finished", "logprob").iter_rows()
    return [Completion(text, ids, finished, logprob) for text, ids, finished, logprob in columns]


def select_frame(
    replies: pl.DataFrame,
    groups: Sequence[PromptGroup],
    config: OptimisationConfig,
    ratios: LogRatios,
    slow_judge: SlowJudge | None,
    seed: int,
) -> pl.DataFrame:
    """`replies` (samples, scores, verdicts; completions and the prompts' baseline replies) with what was decided.

    Added columns: `role` and `weight` (null: not learned from), `outcome` (of the prompt), `log_ratio` (null: not
    computed), `kl_sample` (whether the row is in the seeded sample), `slow_judge` (null: not asked).
    """
    replies = replies.with_row_index("place")
    completions = replies.filter(pl.col("completion_id") != BASELINE)["place"].to_numpy()
    size = min(config.kl_samples, len(completions))
    sampled = np.sort(np.random.default_rng(seed).choice(completions, size=size, replace=False))
    ratios.also = sampled.tolist()
    role: dict[int, tuple[str, float]] = {}
    outcome: dict[str, str] = {}
    asked: dict[int, bool] = {}
    for group in groups:
        rows = replies.filter(pl.col("group") == group.name)
        broken = rows.filter(pl.col("reward").is_nan() | pl.col("reward").is_null())["prompt_id"].unique()
        outcome |= dict.fromkeys(broken.to_list(), "set aside: a reward is NaN or infinite")
        rows = rows.filter(~pl.col("prompt_id").is_in(broken.implode()))
        if rows.is_empty():
            continue
        batch, places = _batch(rows, group, ratios, slow_judge, replies, asked)
        selection = SELECT[config.optimiser](batch)
        outcome |= dict(zip(places.prompt_ids, selection.outcome, strict=True))
        role |= {places.of(example.reply): (example.role, example.weight) for example in selection.examples}
    # CODPO's loss needs its pairs' log-probabilities under the reference policy: the update has them from here.
    ratios.of(sorted(role) if config.optimiser == "codpo" else [])
    places_all = range(replies.height)
    return replies.with_columns(
        pl.Series("role", [role.get(i, (None, None))[0] for i in places_all], dtype=pl.String),
        pl.Series("weight", [role.get(i, (None, None))[1] for i in places_all], dtype=pl.Float64),
        pl.Series("log_ratio", [ratios.known.get(i) for i in places_all], dtype=pl.Float64),
        pl.Series("kl_sample", np.isin(np.arange(replies.height), sampled)),
        pl.Series("slow_judge", [asked.get(i) for i in places_all], dtype=pl.Boolean),
        pl.col("prompt_id").replace_strict(outcome, default=None, return_dtype=pl.String).alias("outcome"),
    ).drop("place")


@dataclass(frozen=True)
class _Places:
    """Where a group's replies stand in the whole frame."""

    prompt_ids: list[str]
    completions: np.ndarray
    baselines: np.ndarray

    def of(self, reply: Reply) -> int:
        if reply.completion == BASELINE:
            return int(self.baselines[reply.prompt])
        return int(self.completions[reply.prompt, reply.completion])


def _batch(
    rows: pl.DataFrame,
    group: PromptGroup,
    ratios: LogRatios,
    slow_judge: SlowJudge | None,
    replies: pl.DataFrame,
    asked: dict[int, bool],
) -> tuple[Batch, _Places]:
    completions = rows.filter(pl.col("completion_id") != BASELINE)
    baselines = rows.filter(pl.col("completion_id") == BASELINE)
    prompts = baselines.height
    places = _Places(
        baselines["prompt_id"].to_list(), matrix(completions, "place", prompts), baselines["place"].to_numpy()
    )

    passed = matrix(completions, "passed", prompts)

    def log_ratio(asked_for: Sequence[Reply]) -> np.ndarray:
        where = [places.of(reply) for reply in asked_for]
        if ratios.known and not ratios.known.keys() >= set(where):
            # These prompts' best replies are out of bounds: one more pass, with all that may be put up in their place.
            mine = sorted({reply.prompt for reply in asked_for if reply.completion != BASELINE})
            ratios.of([*where, *places.completions[mine][passed[mine]].tolist()])
        return ratios.of(where)

    def costly(asked_for: Sequence[Reply]) -> np.ndarray:
        if slow_judge is None:
            return np.ones(len(asked_for), dtype=bool)
        where = [places.of(reply) for reply in asked_for]
        prompts, texts = replies["prompt"][where].to_list(), replies["completion"][where].to_list()
        passed = ratios.ranks.spread(
            len(where), lambda share: slow_judge([prompts[i] for i in share], [texts[i] for i in share]).tolist()
        )
        asked.update(zip(where, passed, strict=True))
        return np.array(passed, dtype=bool)

    batch = Batch(
        reward=np.where(matrix(completions, "control", prompts), -np.inf, matrix(completions, "reward", prompts)),
        passed=passed,
        baseline_reward=baselines["reward"].to_numpy(),
        baseline_passed=baselines["passed"].to_numpy(),
        kl_max=group.kl_max,
        log_ratio=log_ratio,
        costly=costly,
    )
    return batch, places
