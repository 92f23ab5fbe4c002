"""`rluf plan`: known sizes, the formulas it rests on, the paper's set-up, and that every packaged profile can be planned."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from resources.launchers.spec import JobSpec
from resources.profiles import candidate_config, load_candidates, load_profile
from resources.profiles.launchers import job_names
from rluf_assets.errors import ConfigError
from rluf_assets.plan_graph import estimates
from rluf_assets.plan_report import print_plan
from rluf_assets.planning import GIB, Estimate, Sharding, kv_cache_memory, policy_shape, state_memory


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


@pytest.mark.slow  # DeepSpeed takes its time to be imported
@pytest.mark.parametrize("sharding", ["zero2", "zero3"])
def test_states_are_what_deepspeed_estimates(sharding: Sharding, tmp_path: Path) -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    shape = load_profile(tmp_path, "cluster_256_h100").plan.models["policy"]
    cluster = {"num_gpus_per_node": 8, "num_nodes": 32, "cpu_offload": False}
    if sharding == "zero3":
        largest = max(shape.layer_parameters, shape.embedding_parameters)
        _, on_gpu, _ = estimate_zero3_model_states_mem_needs(
            shape.parameters, largest, cpu_offload_params=False, **cluster
        )
    else:
        _, on_gpu = estimate_zero2_model_states_mem_needs(shape.parameters, **cluster)
    assert sum(state_memory(shape, 256, sharding).values()) * GIB == pytest.approx(on_gpu, rel=1e-6)


def test_the_papers_set_up_comes_out_in_one_to_two_days_of_256_gpus(tmp_path: Path) -> None:
    rows = {row.asset: row for row in plan_of(tmp_path, "cluster_256_h100")}
    for candidate in ("baseline", "moderate", "aggressive"):
        row = rows[f"crraft_policy[{candidate}]"]
        assert row.gpus == 256
        assert 24 <= row.hours <= 48
        assert row.memory_total <= 79
    assert rows["crraft_policy[untouched]"].flops == 0


def test_what_a_launcher_shards_decides_what_fits(tmp_path: Path) -> None:
    kept = {row.asset: row for row in plan_of(tmp_path, "cluster_256_h100")}["helpfulness_reward"]
    text = "profile: cluster_256_h100\nlaunchers: {gpu: {accelerate_config: ddp}}\n"
    (tmp_path / "rluf.yaml").write_text(text)
    plan = load_profile(tmp_path).plan
    whole = {row.asset: row for row in plan_of(tmp_path, "cluster_256_h100")}["helpfulness_reward"]
    assert kept.fits(plan) and not whole.fits(plan)
    (tmp_path / "rluf.yaml").write_text(text.replace("ddp", "zero4"))
    with pytest.raises(ConfigError, match=r"accelerate_config.*did you mean 'zero3'|did you mean 'zero2'"):
        load_profile(tmp_path)


def test_every_job_of_the_graph_is_planned(tmp_path: Path) -> None:
    played = {row.job for row in plan_of(tmp_path, "tiny")}
    logged = {
        "kind": "logged", "first_day": "2026-01-01", "messages": "m", "reactions": "r", "past_launches": "p",
        "preferences": {"helpfulness": "h", "safety": "s"},
    }  # fmt: skip
    (tmp_path / "rluf.yaml").write_text(yaml.safe_dump({"production": logged}))
    adopted = {row.job for row in plan_of(tmp_path, "laptop")}
    del logged["past_launches"]
    (tmp_path / "rluf.yaml").write_text(yaml.safe_dump({"production": logged}))
    # The oracle is asked by `rluf results` alone.
    assert played | adopted | {row.job for row in plan_of(tmp_path, "laptop")} | {"play_oracle"} == set(job_names())


@pytest.mark.parametrize("name", ["tiny", "laptop", "one_gpu", "cluster_256_h100"])
def test_every_profile_fits_and_shows_its_commands(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert print_plan(tmp_path, name)
    shown = capsys.readouterr().out
    assert all(f"rluf_assets.jobs.{job}" in shown for job in ("ingest", "optimise_policy", "release_policy"))
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
