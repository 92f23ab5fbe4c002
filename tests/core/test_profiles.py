"""Profiles: layering, unknown keys, candidates."""

from __future__ import annotations

from pathlib import Path

import pytest

from resources.profiles import candidate_config, load_candidates, load_profile
from rluf_assets.errors import ConfigError


def test_home_settings_lie_over_the_packaged_profile(tmp_path: Path) -> None:
    ground = load_profile(tmp_path)
    (tmp_path / "rluf.yaml").write_text("profile: laptop\nseed: 3\nsignal_set: {user_cap: 7}\n")
    own = load_profile(tmp_path)
    assert (own.seed, own.signal_set.user_cap) == (3, 7)
    assert own.signal_set.holdout_days == ground.signal_set.holdout_days
    assert own.production == ground.production


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
