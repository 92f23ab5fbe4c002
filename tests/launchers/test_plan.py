"""`rluf plan`: known sizes, the formulas it rests on, the paper's set-up, and that every packaged profile can be planned."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from resources.launchers.spec import JobResources, JobSpec
from resources.profiles import candidate_config, load_candidates, load_profile
from resources.profiles.launchers import job_names
from rluf_assets.errors import ConfigError
from rluf_assets.plan_costs import GIB, Sharding, kv_cache_memory, state_memory
from rluf_assets.plan_graph import estimates
from rluf_assets.plan_paper import best_pools
from rluf_assets.plan_report import print_plan
from rluf_assets.plan_shapes import placed, policy_shape, role_shape
from rluf_assets.planning import Estimate, estimate_base, estimate_policy


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


def test_the_papers_set_up_does_not_come_out_in_two_days_as_coded_and_the_plan_says_what_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = load_profile(tmp_path, "cluster_256_h100")
    rows = {row.asset: row for row in plan_of(tmp_path, "cluster_256_h100")}
    for candidate in ("baseline", "moderate", "aggressive"):
        row = rows[f"crraft_policy[{candidate}]"]
        assert row.gpus == 256 and row.memory_total <= 79
        # What takes longest is the wait for the longest reply of each step; the sum of all parts is the time.
        assert max(row.seconds, key=row.seconds.__getitem__) == "idle ranks"
        assert 48 < row.hours < 72 and all(row.seconds[part] > 0 for part in ("gathers", "weight transfer"))
        assert row.hours == pytest.approx(sum(row.seconds.values()) / 3600)
        assert "its time_limit_s: 48 h" in (row.problem(profile.plan) or "")
    assert rows["crraft_policy[untouched]"].flops == 0
    config = candidate_config(tmp_path, "aggressive", profile.crraft_policy)
    pools = best_pools(profile, config, 256)
    assert pools is not None and pools.training + pools.sampling + pools.frozen == 256
    assert 24 <= config.iterations * pools.step_s / 3600 <= 48
    assert not print_plan(tmp_path, "cluster_256_h100")
    shown = capsys.readouterr().out
    assert "does NOT fit" in shown and "lacks for that: pools of its own" in shown and "has not been shown" in shown


def test_a_jobs_own_dtype_checkpointing_and_batches_decide(tmp_path: Path) -> None:
    def memory(asset: str, text: str) -> float:
        (tmp_path / "rluf.yaml").write_text(f"profile: one_gpu\n{text}\n")
        return {row.asset: row for row in plan_of(tmp_path, "one_gpu")}[asset].memory_total

    policy, reward, evaluation = "crraft_policy[moderate]", "p_love", "offline_evaluation[moderate]"
    held = 1_235_814_400 * 4 / GIB
    # The policy answers with float32 weights whatever the reward models score in; a judge is one model more.
    assert memory(evaluation, "offline_evaluation: {dtype: bfloat16}") > held + 3 * held / 2
    judged = memory(policy, "crraft_policy: {llm_judge: {folder: x}}") - memory(policy, "")
    assert judged == pytest.approx(held)
    assert memory(policy, "crraft_policy: {engine: transformers}") > 4 * held + held + 3 * held / 2
    assert memory(policy, "crraft_policy: {gradient_checkpointing: false}") > 1.2 * memory(policy, "")
    assert memory(policy, "crraft_policy: {dtype: float32}") > memory(policy, "")
    assert memory(policy, "crraft_policy: {forward_tokens: 32768}") > memory(policy, "")
    assert memory(reward, "p_love: {gradient_checkpointing: false}") > memory(reward, "")
    assert memory(reward, "p_love: {dtype: float32}") > memory(reward, "")


def test_a_prompt_is_counted_as_often_as_it_is_passed(tmp_path: Path) -> None:
    profile = load_profile(tmp_path, "one_gpu")

    def row(**changes: object) -> Estimate:
        config = candidate_config(tmp_path, "moderate", {**profile.crraft_policy, **changes})
        return estimate_policy("moderate", config, profile, profile.jobs["optimise_policy"].resources(JobResources()))

    four, eight = row(completions_per_prompt=4), row(completions_per_prompt=8)
    replies = 500 * 128 * 4 * 256  # steps x prompts x replies more x mean tokens of a reply
    assert eight.tokens - four.tokens == pytest.approx(replies * (1 + 3))  # sampled once, read by three reward models
    assert "once by each of 3 reward models for its 4 replies" in four.passes


def test_a_job_that_loads_a_model_fits_only_where_its_memory_does(tmp_path: Path) -> None:
    (tmp_path / "rluf.yaml").write_text(
        "profile: laptop\n"
        "plan: {models: {policy: {hidden_size: 2048, intermediate_size: 8192, layers: 16, heads: 32, kv_heads: 8,"
        " head_dim: 64, vocab_size: 128256, tied: true}}}\n"
    )
    plan = load_profile(tmp_path).plan
    rows = {row.asset: row for row in plan_of(tmp_path, "laptop")}
    loads = ["base_policy", "p_love", "ab_exposures[moderate]", "offline_online_backtest", "offline_evaluation[moderate]",
             "crraft_policy[moderate]", "off_policy_evaluation"]  # fmt: skip
    for asset in loads:
        assert "needs" in (rows[asset].problem(plan) or ""), asset
    assert rows["signal_set"].problem(plan) is None


def write_checkpoint(folder: Path, dtype: str, width: int, **config: object) -> None:
    """A checkpoint's config.json and the header of its weights, as `save_pretrained` writes them; no weight is read."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"dtype": dtype, **config}))
    shapes, header, at = (
        {"model.embed_tokens.weight": [32000, 512], "lm_head.weight": [32000, 512], "rest": [90_000_000]},
        {},
        0,
    )
    for name, shape in shapes.items():
        size = width * math.prod(shape)
        header[name], at = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}, at + size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)


@pytest.mark.parametrize(
    "config",
    [
        {
            "hidden_size": 512,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "vocab_size": 32000,
        },
        {"n_embd": 512, "n_layer": 8, "n_head": 8, "vocab_size": 32000},
        {"text_config": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "vocab_size": 32000}},
    ],
    ids=["llama", "gpt2", "nested"],
)
def test_a_model_given_by_path_is_priced_as_its_folder_says(config: dict[str, object], tmp_path: Path) -> None:
    """Its own parameters, whatever the profile's own model is; its own bytes: a float32 checkpoint has four to a weight."""
    write_checkpoint(tmp_path / "models" / "whole", "float32", 4, **config)
    write_checkpoint(tmp_path / "models" / "half", "bfloat16", 2, **config)
    found = {}
    for name in ("whole", "half"):
        (tmp_path / "rluf.yaml").write_text(
            f"profile: one_gpu\nbase_policy: {{checkpoint: models/{name}}}\np_love: {{base: models/half}}\n"
        )
        profile = placed(load_profile(tmp_path), tmp_path)
        assert policy_shape(profile).parameters == pytest.approx(90e6 + 2 * 32000 * 512, rel=1e-3)
        assert role_shape(profile, "p_love") == policy_shape(profile)
        found[name] = estimate_base(profile, JobResources()).memory["weights"] * GIB / policy_shape(profile).parameters
    assert found == {"whole": pytest.approx(4.0), "half": pytest.approx(2.0)}


def test_a_model_given_by_path_whose_shape_nobody_says_is_not_priced_as_another(tmp_path: Path) -> None:
    (tmp_path / "rluf.yaml").write_text("profile: laptop\nbase_policy: {checkpoint: /models/there}\n")
    with pytest.raises(
        ConfigError, match=r"base_policy\.checkpoint /models/there: no config\.json.*Set plan\.models\.policy"
    ):
        plan_of(tmp_path, "laptop")
    shape = "{hidden_size: 64, intermediate_size: 128, layers: 2, heads: 2, kv_heads: 2, head_dim: 32, vocab_size: 512}"
    (tmp_path / "rluf.yaml").write_text(
        f"profile: laptop\nbase_policy: {{checkpoint: /models/there}}\nplan: {{models: {{policy: {shape}}}}}\n"
    )
    profile = load_profile(tmp_path)
    weights = estimate_base(profile, JobResources()).memory["weights"]
    assert weights * GIB == 4 * policy_shape(profile).parameters  # its dtype is not known either
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "config.json").write_text('{"model_type": "mystery", "vocab_size": 9}')
    (tmp_path / "rluf.yaml").write_text("profile: laptop\nbase_policy: {checkpoint: models}\n")
    with pytest.raises(ConfigError, match=r"does not say \['heads', 'hidden_size', 'layers'\]"):
        policy_shape(placed(load_profile(tmp_path), tmp_path))


@pytest.mark.parametrize(
    "found", [b"", b"\x01", b"version https://git-lfs.github.com/spec/v1", b"\x02" + bytes(7) + b"{]"]
)
def test_weights_that_are_cut_or_only_a_pointer_are_named(found: bytes, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "models" / "chat", "float32", 4, model_type="llama", hidden_size=64, num_hidden_layers=2,
                     num_attention_heads=2, vocab_size=512)  # fmt: skip
    (tmp_path / "models" / "chat" / "model.safetensors").write_bytes(found)
    (tmp_path / "rluf.yaml").write_text("profile: one_gpu\nbase_policy: {checkpoint: models/chat}\n")
    with pytest.raises(ConfigError, match=r"model\.safetensors: found no header of safetensors"):
        policy_shape(placed(load_profile(tmp_path), tmp_path))


def test_what_a_launcher_shards_decides_what_fits(tmp_path: Path) -> None:
    kept = {row.asset: row for row in plan_of(tmp_path, "cluster_256_h100")}["helpfulness_reward"]
    text = "profile: cluster_256_h100\nlaunchers: {gpu: {accelerate_config: ddp}}\n"
    (tmp_path / "rluf.yaml").write_text(text)
    plan = load_profile(tmp_path).plan
    whole = {row.asset: row for row in plan_of(tmp_path, "cluster_256_h100")}["helpfulness_reward"]
    assert kept.problem(plan) is None and whole.problem(plan) is not None
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
def test_every_profile_shows_its_commands_and_what_does_not_fit(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert print_plan(tmp_path, name) == (name != "cluster_256_h100")
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
