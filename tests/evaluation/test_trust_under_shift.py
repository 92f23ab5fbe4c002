"""Planted distribution shifts in the simulated production: does the evaluator notice that it cannot know?

P[love] is trained on the production's replies and its truth's reactions. Candidates are the production's own policies,
which it judges rightly, and shifted versions of its texts, on which it is far off: one is predicted to gain half as much
love again and loses nearly all. The truth is only looked at to say so; the evaluator must doubt before anybody knows.

The control of spoilt replies is taken as passed here. Models this small fail it, to them a bag of warm words is a warm
reply, so it would doubt everything and hide what the other doubts see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rluf_assets.evaluation.config import HackingAuditConfig, ReleaseConfig
from rluf_assets.evaluation.frames import Evaluation, check_evaluation
from rluf_assets.evaluation.hacking import LoggedReplies, audit_reward_hacking
from rluf_assets.evaluation.offline import compare_offline
from rluf_assets.evaluation.release import HOLD, PROMOTE, Decision, Evidence, decide_candidate
from rluf_assets.evaluation.trust import assess_trust
from rluf_assets.home import open_home
from rluf_assets.rewards.config import EvaluationConfig, RewardConfig
from rluf_assets.rewards.evaluation import evaluate_signal
from rluf_assets.rewards.scoring import RewardModel
from rluf_assets.rewards.training import fit_reward
from rluf_assets.simulation.config import LiveTestConfig
from rluf_assets.simulation.contexts import draw_contexts
from rluf_assets.simulation.launches import CONTROL, write_texts
from rluf_assets.simulation.live import read_replies, true_rates

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]
LEARNED, HELD, PROMPTS = 3000, 4000, 200
EAGER = 60
RELEASE = ReleaseConfig(baseline=CONTROL, resamples=200, min_backtest_r=0.5)
BACKTEST = {"pearson_r": 0.95, "ci": [0.8, 0.99], "policies": 10}
LETTERS = np.array(list("bcdfghjklmnpqrstvwxzaeiou"))


def unknown_language(text: str, rng: np.random.Generator) -> str:
    """Every word becomes one that nobody has seen, of the same length."""
    return " ".join("".join(rng.choice(LETTERS, max(len(word), 1))) for word in text.split())


def scrambled(text: str, rng: np.random.Generator) -> str:
    """Words in any order: each is known, what they say is not."""
    return " ".join(rng.permutation(text.split()))


def stuffed(text: str, rng: np.random.Generator) -> str:
    """Nothing but the logs' warmest word."""
    return "love " * max(len(text.split()), 4)


@dataclass(frozen=True)
class World:
    """Logged replies with the reactions of users who love sixty times as often, and what P[love] learned from them."""

    learned: pl.DataFrame
    held: pl.DataFrame
    model: RewardModel
    prompts: pl.DataFrame
    contexts: pl.DataFrame


@pytest.fixture(scope="module")
def world(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    base = open_home(tiny_home).lake.current("base_policy").uri
    contexts = draw_contexts(LiveTestConfig(arm="logs", contexts=LEARNED + HELD + PROMPTS), 0, 7)
    contexts = contexts.sample(fraction=1, shuffle=True, seed=0)
    asked = contexts.select(pl.col("context_id").alias("prompt_id"), "prompt", "use_case")
    replies = write_texts(asked, 0, 7).filter(pl.col("policy") == CONTROL)["completion"]
    loves = true_rates(contexts, read_replies(contexts, replies.to_list()))["expected_love"].to_numpy()
    label = np.random.default_rng(0).random(len(loves)) < np.minimum(EAGER * loves, 1)
    logs = asked.with_columns(replies, pl.Series("label", label), pl.col("prompt_id").alias("user_id"))
    learned, held = logs.head(LEARNED), logs.slice(LEARNED, HELD)
    config = RewardConfig(epochs=2, batch_tokens=4096, evaluation=EvaluationConfig(bootstrap_resamples=50))
    out = tmp_path_factory.mktemp("p_love")
    fit_reward(base, learned, config, seed=0, out=out, checkpoints=out / "checkpoints")
    evaluation = evaluate_signal(RewardModel.load(out), learned, held.lazy(), config, seed=0)
    assert evaluation.ensemble is not None
    evaluation.ensemble.save(out)
    return World(learned, held, RewardModel.load(out), asked.tail(PROMPTS), contexts.tail(PROMPTS))


@pytest.fixture(scope="module")
def texts(world: World) -> pl.DataFrame:
    """prompt_id, use_case, prompt and the reply of each of the production's policies."""
    return write_texts(world.prompts, 0, 1).join(world.prompts, on="prompt_id", maintain_order="left")


def evaluated(texts: pl.DataFrame, model: RewardModel) -> Evaluation:
    """What the job `evaluate_candidate` writes, for replies that are there already."""
    completions = texts.select("prompt_id", "use_case", "prompt", "completion").with_columns(
        pl.lit(0).alias("completion_id"), pl.lit(True).alias("finished")
    )
    found = model.score(completions["prompt"].to_list(), completions["completion"].to_list(), members=True)
    scores = completions.select("prompt_id", "completion_id", "use_case", objective=pl.lit("love")).hstack(found)
    return check_evaluation("candidate", Evaluation(completions, scores))


def decided(world: World, texts: pl.DataFrame, candidate: pl.DataFrame) -> Decision:
    """The decision on one candidate against the production's own policy, without an A/B test."""
    base = evaluated(texts.filter(pl.col("policy") == CONTROL), world.model)
    evaluations = {CONTROL: base, "candidate": evaluated(candidate, world.model)}
    audit_config = HackingAuditConfig(baseline=CONTROL, resamples=200, harmful_use_cases=())
    logged = LoggedReplies(world.learned.select("completion"), world.held.select("completion"))
    audit = audit_reward_hacking(evaluations, logged, audit_config, seed=0)
    trust = assess_trust(evaluations, RELEASE.offline, seed=0).with_columns(spoilt_last=pl.lit(True))
    offline = compare_offline(evaluations, RELEASE.offline, seed=0)
    return decide_candidate("candidate", Evidence(offline, audit.tripwires, BACKTEST, None, trust), RELEASE)


def shifted(texts: pl.DataFrame, how: Callable[[str, np.random.Generator], str]) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    own = texts.filter(pl.col("policy") == CONTROL)
    return own.with_columns(pl.Series("completion", [how(text, rng) for text in own["completion"]]))


def true_change(world: World, texts: pl.DataFrame, candidate: pl.DataFrame) -> float:
    """Relative change of the love that users would truly give, against the production's own policy."""
    expected = []
    for side in (candidate, texts.filter(pl.col("policy") == CONTROL)):
        replies = world.prompts.select("prompt_id").join(side, on="prompt_id", maintain_order="left")["completion"]
        rates = true_rates(world.contexts, read_replies(world.contexts, replies.to_list()))
        expected.append(float(rates["expected_love"].sum()))
    return expected[0] / expected[1] - 1


@pytest.mark.parametrize("name", ["more_refusing", "older", "colder"])
def test_the_productions_own_policies_are_judged_rightly_and_trusted(
    world: World, texts: pl.DataFrame, name: str
) -> None:
    own = texts.filter(pl.col("policy") == name)
    decision = decided(world, texts, own)
    assert decision.love_change is not None
    assert np.sign(decision.love_change) == np.sign(true_change(world, texts, own))
    gate = decision.gate("trust")
    assert gate is not None and gate.result == "pass", gate


@pytest.mark.parametrize(
    ("how", "doubts"),
    [
        (unknown_language, ("of its replies lie far from the logged ones",)),
        (scrambled, ("of its replies lie far from the logged ones",)),
        (stuffed, ("of its replies lie far from the logged ones", "ensemble disagrees: ")),
    ],
)
def test_a_planted_shift_misleads_and_is_not_trusted_and_the_reason_is_told(
    world: World, texts: pl.DataFrame, how: Callable[..., str], doubts: tuple[str, ...]
) -> None:
    candidate = shifted(texts, how)
    decision, truth = decided(world, texts, candidate), true_change(world, texts, candidate)
    assert truth < -0.7
    assert decision.love_change_low is not None and decision.love_change_low > truth + 0.4, "the prediction is far off"
    gate = decision.gate("trust")
    assert gate is not None and gate.result == "not shown"
    assert all(doubt in gate.detail for doubt in doubts), gate.detail
    assert decision.decision != PROMOTE
    assert decision.decision == HOLD or gate.detail in decision.reasons
