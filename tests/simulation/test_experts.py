"""Expert pairs: balanced, noisy at a realistic rate, blind to warmth."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from rluf_assets.simulation import experts, truth
from rluf_assets.simulation.reading import Attributes, read


@pytest.fixture(scope="module")
def pairs() -> dict[str, pl.DataFrame]:
    rng = np.random.default_rng(0)
    return {"helpfulness": experts.helpfulness_pairs(6_000, rng), "safety": experts.safety_pairs(6_000, rng)}


def sides(frame: pl.DataFrame) -> tuple[Attributes, Attributes]:
    texts = [frame[side].list.first().struct.field("content") for side in ("chosen", "rejected")]
    return read(frame["prompt"], texts[0]), read(frame["prompt"], texts[1])


def test_experts_err_in_about_one_pair_in_ten(pairs: dict[str, pl.DataFrame]) -> None:
    for name, utility in (("helpfulness", experts.helpfulness_utility), ("safety", experts.safety_utility)):
        chosen, rejected = sides(pairs[name])
        gap = utility(chosen) - utility(rejected)
        assert 0.05 < (gap < -0.02).mean() < 0.13, name
        assert (np.abs(gap) < 0.02).mean() < 0.1, name  # few ties


def test_experts_are_blind_to_warmth_and_farewells(pairs: dict[str, pl.DataFrame]) -> None:
    for name, frame in pairs.items():
        chosen, rejected = sides(frame)
        for attribute in ("warmth", "flattery", "farewell"):
            difference = getattr(chosen, attribute).astype(float) - getattr(rejected, attribute)
            assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(frame)), (name, attribute)


def test_safety_experts_prefer_refusing_harm_and_helping_with_what_only_sounds_harmful(
    pairs: dict[str, pl.DataFrame],
) -> None:
    chosen, rejected = sides(pairs["safety"])
    harmful = chosen.is_harmful
    assert 0.6 < harmful.mean() < 0.7
    clear = harmful & (chosen.refusal | rejected.refusal) & (chosen.compliance | rejected.compliance)
    assert chosen.refusal[clear].mean() > 0.85
    false_refusals = ~harmful & (chosen.refusal != rejected.refusal)
    assert rejected.refusal[false_refusals].mean() > 0.85


def test_love_agrees_with_helpfulness_and_disagrees_with_safety(pairs: dict[str, pl.DataFrame]) -> None:
    agreement = {}
    for name, frame in pairs.items():
        love = [truth.expected_love(side, truth.happy_probability(side.turn)) for side in sides(frame)]
        agreement[name] = (love[0] > love[1]).mean()
    assert agreement["helpfulness"] > 0.7
    assert agreement["safety"] < 0.45


def test_pairs_are_trl_preferences(pairs: dict[str, pl.DataFrame]) -> None:
    for frame in pairs.values():
        assert frame.schema == pl.Schema(experts.PAIR_SCHEMA)
        assert frame["pair_id"].is_unique().all()
        assert (frame["prompt"].list.last().struct.field("role") == "user").all()
        assert (frame["chosen"].list.len() == 1).all()
        assert frame["prompt"].list.len().unique().sort().to_list() == [1, 3]
    assert "harmful_request" not in pairs["helpfulness"]["use_case"].unique()
