"""Settings: names that do not exist, weights that say nothing, groups that overlap."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rluf_assets.errors import ConfigError
from rluf_assets.policy.config import BasePolicyConfig, OptimisationConfig, PromptGroup
from rluf_assets.policy.judges import DEFAULT_JUDGES

WEIGHTS = {"helpfulness": 0.7, "safety": 0.3}


@pytest.mark.parametrize("weights", [{}, {"love": 0.0}, {"love": 0.0, "safety": 0.0}])
def test_weights_that_are_all_zero_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="all zero or absent"):
        OptimisationConfig(weights=weights)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_negative_and_non_finite_weights_are_refused(weight: float) -> None:
    with pytest.raises(ValidationError, match="love"):
        OptimisationConfig(weights={"love": weight, "safety": 1.0})


def test_an_objective_without_reward_model_names_those_there_are() -> None:
    config = OptimisationConfig(weights={"lvoe": 0.3, **WEIGHTS})
    with pytest.raises(ConfigError, match=r"\['lvoe'\]; there is one for \['helpfulness', 'love', 'safety'\]"):
        config.check_names({"love", "helpfulness", "safety"})


def test_minimum_rewards_name_objectives_too() -> None:
    config = OptimisationConfig(weights=WEIGHTS, minimum_rewards={"speed": 0.0})
    with pytest.raises(ConfigError, match="speed"):
        config.check_names(WEIGHTS)


def test_an_unknown_judge_is_refused_and_a_function_by_path_found() -> None:
    with pytest.raises(ConfigError, match="no_such_judge"):
        OptimisationConfig(weights=WEIGHTS, judges=("no_such_judge",)).check_names(WEIGHTS)
    OptimisationConfig(weights=WEIGHTS, judges=("rluf_assets.policy.judges:repetition",)).check_names(WEIGHTS)


def test_no_optimiser_needs_no_weights() -> None:
    OptimisationConfig(optimiser="none").check_names([])


def test_one_group_of_all_prompts_is_the_default() -> None:
    (group,) = OptimisationConfig(weights=WEIGHTS, kl_max=3.0, completions_per_prompt=6).prompt_groups()
    assert group.weights == WEIGHTS
    assert (group.kl_max, group.completions_per_prompt, group.use_cases) == (3.0, 6, ())
    assert group.judges == DEFAULT_JUDGES
    assert "needless_farewell" not in group.judges


@pytest.mark.parametrize(
    "second", [{"name": "a", "use_cases": ("y",)}, {"name": "b", "use_cases": ("x",)}, {"name": "b", "use_cases": ()}]
)
def test_groups_are_disjoint(second: dict[str, object]) -> None:
    given = {"weights": WEIGHTS, "judges": ()}
    first = PromptGroup(name="a", use_cases=() if second["use_cases"] == () else ("x",), **given)
    with pytest.raises(ValidationError, match="disjoint"):
        OptimisationConfig(groups=(first, PromptGroup.model_validate({**second, **given})))


def test_heads_must_divide_the_hidden_size() -> None:
    with pytest.raises(ValidationError, match="no multiple of head_dim"):
        BasePolicyConfig(hidden_size=80)
