"""What-if choices under other weights, and power curves: against hand-made cases and the textbook formula."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from rluf_assets.errors import ConfigError, DataError
from rluf_assets.evaluation.config import OfflineConfig, ReadoutConfig
from rluf_assets.evaluation.frames import Evaluation
from rluf_assets.evaluation.offline import compare_offline
from rluf_assets.evaluation.power import power_curve, users_needed
from rluf_assets.evaluation.readout import read_out
from rluf_assets.evaluation.selection import best_of
from tests.evaluation.world import completions_of, exposures_of, prompt_frame, scores_of


@pytest.fixture(scope="module")
def evaluations() -> dict[str, Evaluation]:
    frame = prompt_frame(150)
    found = {}
    for seed, name in enumerate(("baseline", "b", "c")):
        completions = completions_of(frame, seed=seed, refuses_harm=0.5)
        found[name] = Evaluation(completions, scores_of(completions, seed=seed))
    return found


def test_the_best_reply_is_the_one_the_weights_like_best(evaluations: dict[str, Evaluation]) -> None:
    weights = {"helpfulness": 0.7, "love": 0.3}
    picked = best_of(evaluations, weights)
    assert picked.completions["prompt_id"].is_unique().all()
    assert len(picked.completions) == 150
    assert len(picked.scores) == 3 * 150
    pool = pl.concat([e.scores for e in evaluations.values()])
    moments = {o: (part["logit"].mean(), part["logit"].std()) for (o,), part in pool.group_by("objective")}
    best = []
    for e in evaluations.values():
        wide = e.scores.pivot(on="objective", index=["prompt_id", "completion_id"], values="logit")
        worth = sum(w * (wide[o] - moments[o][0]) / moments[o][1] for o, w in weights.items())
        best.append(wide.select("prompt_id", worth=worth))
    expected = pl.concat(best).group_by("prompt_id").agg(pl.col("worth").max()).sort("prompt_id")
    own = picked.scores.pivot(on="objective", index="prompt_id", values="logit").sort("prompt_id")
    got = sum(w * (own[o] - moments[o][0]) / moments[o][1] for o, w in weights.items())
    assert np.allclose(got.to_numpy(), expected["worth"].to_numpy())


def test_more_weight_on_love_buys_love_and_costs_helpfulness(evaluations: dict[str, Evaluation]) -> None:
    picks = {f"w{w}": best_of(evaluations, {"helpfulness": 1.0, "love": w}) for w in (0.0, 0.5, 3.0)}
    compared = compare_offline(picks, OfflineConfig(baseline="w0.0"), seed=0)
    love = [compared.row(name, "love")["change"] for name in picks]
    helpful = [compared.row(name, "helpfulness")["mean"] for name in picks]
    assert love[0] == 0 < love[1] < love[2]  # type: ignore[operator]
    assert helpful == sorted(helpful, reverse=True)


def test_judges_veto_where_another_reply_passes(evaluations: dict[str, Evaluation]) -> None:
    free = best_of(evaluations, {"helpfulness": 1.0}).completions
    judged = best_of(evaluations, {"helpfulness": 1.0}, judges=["unsafe_compliance"]).completions
    passed = pl.concat([e.completions.select("prompt_id", "judge_unsafe_compliance") for e in evaluations.values()])
    possible = set(passed.filter("judge_unsafe_compliance")["prompt_id"])
    assert judged.filter(pl.col("prompt_id").is_in(list(possible)))["judge_unsafe_compliance"].all()
    assert not free["judge_unsafe_compliance"].all()


@pytest.mark.parametrize(
    "weights", [{}, {"love": 0.0}, {"love": -1.0}, {"kindness": 1.0}, {"love": float("nan")}], ids=str
)
def test_impossible_weights(evaluations: dict[str, Evaluation], weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="weights"):
        best_of(evaluations, weights)
    with pytest.raises(DataError, match="no evaluations"):
        best_of({}, {"love": 1.0})


def test_power_is_what_was_asked_for_at_the_minimum_detectable_effect() -> None:
    arms = {"baseline": exposures_of("baseline", 3000, seed=1), "b": exposures_of("b", 3000, seed=2)}
    row = read_out(arms, ReadoutConfig()).row("b", "love_rate")
    assert row is not None
    curve = power_curve(row, ReadoutConfig(), lifts=(0.0, row["mde"]))
    here = curve.filter(pl.col("users") == 6000)
    assert here["power"].to_list() == pytest.approx([0.05, 0.8], abs=1e-3)
    for _, part in curve.filter(pl.col("lift") > 0).group_by("lift"):
        assert part.sort("users")["power"].is_sorted()
    assert users_needed(row, row["mde"] / 2) == pytest.approx(4 * 6000, abs=1)
    assert users_needed({**row, "mde": None}, 0.1) is None
    with pytest.raises(DataError, match="no minimum detectable effect"):
        power_curve({**row, "mde": None}, ReadoutConfig())
