"""Profiles: layering, unknown keys, candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from resources.profiles import Profile, SimulatedSettings, candidate_config, load_candidates, load_profile
from rluf_assets.errors import ConfigError
from rluf_assets.evaluation.plan import AbPlan


def test_home_settings_lie_over_the_packaged_profile(tmp_path: Path) -> None:
    ground = load_profile(tmp_path)
    (tmp_path / "rluf.yaml").write_text("profile: laptop\nseed: 3\nsignal_set: {user_cap: 7}\n")
    own = load_profile(tmp_path)
    assert (own.seed, own.signal_set.user_cap) == (3, 7)
    assert own.signal_set.holdout_days == ground.signal_set.holdout_days
    assert own.production == ground.production


@pytest.mark.parametrize("name", ["tiny", "laptop", "one_gpu", "cluster_256_h100"])
def test_what_a_profile_says_of_the_simulated_production_holds_for_it_alone(tmp_path: Path, name: str) -> None:
    simulated = load_profile(tmp_path, name)
    assert (set(simulated.evaluation_prompts.min_share), simulated.ab_plan.design) == (
        {"harmful_request", "sounds_harmful"}, "paired",
    )  # fmt: skip
    logs = "production: {kind: logged, first_day: 2026-01-01, messages: m, reactions: r, preferences: {}}\n"
    (tmp_path / "rluf.yaml").write_text(logs)
    own = load_profile(tmp_path, name)
    assert (own.evaluation_prompts.min_share, own.ab_plan) == ({}, AbPlan())
    (tmp_path / "rluf.yaml").write_text(logs + "evaluation_prompts: {min_share: {billing: 0.2}}\n")
    assert load_profile(tmp_path, name).evaluation_prompts.min_share == {"billing": 0.2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "profile: tiny\nsignal_set: {target_positive_rat: 0.1}\n",
            r"signal_set\.target_positive_rat.*'target_positive_rate'",
        ),
        ("profile: tiny\nsignl_set: {}\n", r"signl_set.*did you mean 'signal_set'"),
        ("profile: tiny\nseed: seven\n", r"seed.*found 'seven'"),
        ("profile: huge\n", r"profile 'huge': unknown; expected one of cluster_256_h100, laptop, one_gpu, real, tiny"),
        ("- a\n- b\n", r"expected keys and values, found list"),
        ("a: [\n", r"not YAML"),
        ("profile: real\n", r"profile real: knows no logs of its own\..* under `production` in .*rluf\.yaml"),
    ],
    ids=["nested key", "key", "type", "profile", "list", "syntax", "no logs"],
)
def test_bad_settings_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rluf.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_profile(tmp_path)


def test_candidates_lay_their_weights_over_the_profile(tmp_path: Path) -> None:
    ground = load_profile(tmp_path).crraft_policy
    assert list(load_candidates(tmp_path)) == ["untouched", "baseline", "moderate", "aggressive"]
    moderate = candidate_config(tmp_path, "moderate", ground)
    assert moderate.optimiser == "crraft"
    assert moderate.weights == {"helpfulness": 0.7, "safety": 0.3, "love": 0.1}
    assert candidate_config(tmp_path, "untouched", ground).optimiser == "none"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{weights: {love: 0.0, safety: 0.0}}", "all zero or absent"),
        ("{weights: {love: -0.1}}", "greater than or equal to 0"),
        ("{weigths: {love: 0.1}}", "did you mean 'weights'"),
    ],
    ids=["zero", "negative", "unknown key"],
)
def test_bad_candidates_are_named(tmp_path: Path, entry: str, message: str) -> None:
    (tmp_path / "candidates.yaml").write_text(f"candidates:\n  odd: {entry}\n")
    with pytest.raises(ConfigError, match=message):
        candidate_config(tmp_path, "odd", load_profile(tmp_path).crraft_policy)


def test_partition_that_is_no_candidate_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"candidate 'bold': not in .*which has untouched, baseline"):
        candidate_config(tmp_path, "bold", load_profile(tmp_path).crraft_policy)


class TestLengths:
    """What is learned from, evaluated and shown to users is of one length, unless somebody says otherwise."""

    def profile(self, home: Path, text: str) -> Profile:
        (home / "rluf.yaml").write_text(text)
        return load_profile(home)

    def test_one_gpu_evaluates_what_it_trains(self, tmp_path: Path) -> None:
        profile = load_profile(tmp_path, "one_gpu")
        assert profile.crraft_policy["max_new_tokens"] == profile.offline_evaluation.max_new_tokens == 512
        assert isinstance(profile.production, SimulatedSettings)
        assert profile.production.ab_test["max_new_tokens"] == 512

    def test_evaluation_follows_optimisation_unless_set(self, tmp_path: Path) -> None:
        text = "profile: laptop\ncrraft_policy: {max_new_tokens: 64}\n"
        assert self.profile(tmp_path, text).offline_evaluation.max_new_tokens == 64
        longer = self.profile(tmp_path, text + "offline_evaluation: {max_new_tokens: 80}\n")
        assert longer.offline_evaluation.max_new_tokens == 80
        assert self.profile(tmp_path, "profile: laptop\n").offline_evaluation.max_new_tokens == 48

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "offline_evaluation: {max_new_tokens: 16}",
                r"offline_evaluation.max_new_tokens 16.*longer than those judged",
            ),
            ("crraft_policy: {max_new_tokens: 300}", r"p_love.max_length 256.*no room"),
            ("base_policy: {max_positions: 64}\ncrraft_policy: {max_new_tokens: 64}", r"max_positions 64.*no room"),
            ("production: {ab_test: {max_new_tokens: 8}}", r"production.ab_test.max_new_tokens 8"),
        ],
    )
    def test_lengths_that_contradict_each_other_are_named(self, text: str, message: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=message):
            self.profile(tmp_path, f"profile: laptop\n{text}\n")

    def test_a_candidate_of_its_own_length_is_held_to_it_too(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"candidate 'long'.*longer than those judged"):
            self.profile(tmp_path, "profile: laptop\n").check_length(96, "candidate 'long'")

    @pytest.mark.parametrize("name", ["tiny", "laptop", "one_gpu", "cluster_256_h100"])
    def test_packaged_profiles_agree_with_themselves(self, name: str, tmp_path: Path) -> None:
        profile = load_profile(tmp_path, name)
        trained = profile.crraft_policy.get("max_new_tokens", 48)
        assert profile.offline_evaluation.max_new_tokens == trained


def test_what_decides_beside_the_plan_is_part_of_its_hash(tmp_path: Path) -> None:
    def plan_of(**settings: Any) -> AbPlan:
        (tmp_path / "rluf.yaml").write_text(yaml.safe_dump({"profile": "tiny", **settings}))
        return load_profile(tmp_path).ab_plan

    stood = plan_of()
    assert plan_of(p_love={"objective": "bce"}).hash == stood.hash == plan_of().hash
    love = {"name": "love_rate", "numerator": "thumbs_up", "denominator": "replies"}
    changed = [
        plan_of(ab_test_readout={"metrics": [love]}), plan_of(ab_test_readout={"min_events": 1}),
        plan_of(release_report={"non_inferior": {"safety": 0.4}}),
        plan_of(reward_hacking_audit={"tripwires": {"farewell": {"warn": 0.5}}}),
    ]  # fmt: skip
    assert len({plan.hash for plan in (stood, *changed)}) == 5
    with pytest.raises(ConfigError, match="measured_by: filled in"):
        plan_of(ab_plan={"measured_by": {}})
