"""`rluf plan`: known sizes, the formulas it rests on, the paper's set-up, and that every packaged profile can be planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from resources.launchers.spec import JobSpec
from resources.profiles import candidate_config, load_candidates, load_profile
from rluf_assets.errors import ConfigError
from rluf_assets.plan_report import print_plan
from rluf_assets.planning import GIB, Estimate, estimates, kv_cache_memory, policy_shape, state_memory


def plan_of(home: Path, name: str) -> list[Estimate]:
    profile = load_profile(home, name)
    return list(
        estimates(profile, {c: candidate_config(home, c, profile.crraft_policy) for c in load_candidates(home)})
    )


def test_sizes_are_the_published_ones(tmp_path: Path) -> None:
    models = load_profile(tmp_path, "cluster_256_h100").plan.models
    assert models["policy"].parameters == 70_553_706_496
    assert models["p_love"].parameters == 8_030_261_248
    assert policy_shape(load_profile(tmp_path, "one_gpu")).parameters == 1_235_814_400
    # 80 layers x 8 heads x 128 x keys and values x 2 bytes = 320 KiB a token.
    assert kv_cache_memory(models["policy"], 1, 1024, 1) * GIB == 1024 * 320 * 1024


def test_states_are_what_deepspeed_estimates(tmp_path: Path) -> None:
    shape = load_profile(tmp_path, "cluster_256_h100").plan.models["policy"]
    largest = max(shape.layer_parameters, shape.embedding_parameters)
    here = sum(state_memory(shape, 256).values()) * GIB
    assert here == pytest.approx(18 * shape.parameters / 256 + 4 * largest)
    stage3 = pytest.importorskip("deepspeed.runtime.zero.stage3", reason="the extra `deepspeed` is not installed")
    _, on_gpu, _ = stage3.estimate_zero3_model_states_mem_needs(
        shape.parameters, largest, num_gpus_per_node=8, num_nodes=32, cpu_offload=False, cpu_offload_params=False
    )
    assert here == pytest.approx(on_gpu, rel=0.01)


def test_the_papers_set_up_comes_out_in_one_to_two_days_of_256_gpus(tmp_path: Path) -> None:
    rows = {row.asset: row for row in plan_of(tmp_path, "cluster_256_h100")}
    for candidate in ("baseline", "moderate", "aggressive"):
        row = rows[f"crraft_policy[{candidate}]"]
        assert row.gpus == 256
        assert 24 <= row.hours <= 48
    assert rows["crraft_policy[untouched]"].flops == 0


@pytest.mark.parametrize("name", ["tiny", "laptop", "one_gpu", "cluster_256_h100"])
def test_every_profile_fits_and_shows_its_commands(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert print_plan(tmp_path, name)
    shown = capsys.readouterr().out
    assert "rluf_assets.jobs.optimise_policy" in shown
    assert ("sbatch --parsable" in shown) == (name == "cluster_256_h100")
    assert "Assumed:" in shown


def test_what_does_not_fit_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rluf.yaml").write_text("profile: one_gpu\nplan: {gpu: {name: small, memory_gb: 8, tflops: 100}}\n")
    assert not print_plan(tmp_path, None)
    assert "NO" in capsys.readouterr().out


def test_jobs_and_launchers_are_named_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from resources.build import build_resources
    from resources.launchers.slurm import SlurmLauncher

    profile = load_profile(tmp_path, "cluster_256_h100")
    stage = build_resources(profile, tmp_path)["stage"]
    given = {"name": "n", "version": "1", "seed": 0, "output_uri": "/lake/x"}
    chosen = stage.launcher.of(JobSpec(entrypoint="rluf_assets.jobs.train_reward", **given))
    other = stage.launcher.of(JobSpec(entrypoint="rluf_assets.jobs.signal_set", **given))
    assert isinstance(chosen, SlurmLauncher) and isinstance(other, SlurmLauncher)
    assert (chosen.partition, other.partition) == ("h100", "cpu")
    monkeypatch.setenv("RLUF__LAUNCHER__PARTITION", "long")
    assert load_profile(tmp_path, "cluster_256_h100").launcher.partition == "long"
    for text, message in [
        ("launcher: {kind: slurm, partitionn: x}", r"partitionn.*did you mean 'partition'"),
        ("jobs: {train_rewrd: {nodes: 1}}", r"'train_rewrd' is unknown; did you mean 'train_reward'"),
        ("jobs: {train_reward: {nods: 1}}", r"nods.*did you mean 'nodes'"),
        (
            "jobs: {train_reward: {launcher: gpus}}\nlaunchers: {gpu: {kind: slurm}}",
            r"'gpus' is unknown; did you mean 'gpu'",
        ),
    ]:
        monkeypatch.delenv("RLUF__LAUNCHER__PARTITION", raising=False)
        (tmp_path / "rluf.yaml").write_text(f"profile: tiny\n{text}\n")
        with pytest.raises(ConfigError, match=message):
            load_profile(tmp_path)
