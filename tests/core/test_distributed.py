"""One launch: a device before anything is loaded, a group that names a process that died, what sharding may be asked."""

from __future__ import annotations

import io
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import numpy as np
import polars as pl
import pytest
import torch

from resources.launchers.spec import JobSpec
from rluf_assets import distributed
from rluf_assets.distributed import Ranks, Zero, device, join
from rluf_assets.errors import ConfigError, RankLost
from rluf_assets.jobs import (
    evaluate_candidate,
    offline_online_backtest,
    optimise_policy,
    play_ab_test,
    runner,
    train_base_policy,
    train_reward,
)


class Loaded(Exception):
    """Raised in place of the first thing that a job would load onto a device."""


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What happens to devices and groups on rank 1 of 2 with GPUs, up to the first thing that is loaded."""
    seen: list[str] = []
    environment = {
        "WORLD_SIZE": "2",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29999",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    precision = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: seen.append(f"device {number}"))
    monkeypatch.setattr(accelerate, "PartialState", lambda **options: seen.append(f"group {options['timeout']}"))
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: any(line.startswith("group") for line in seen))
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    yield seen
    torch.set_float32_matmul_precision(precision)


def loader(seen: list[str], name: str) -> Callable[..., Any]:
    def load(*args: Any, **options: Any) -> Any:
        seen.append(f"loads {name} onto {options.get('device')}")
        raise Loaded

    return load


def job_of(config: dict[str, Any], tmp_path: Path, *inputs: str) -> Any:
    return SimpleNamespace(
        config=config, spec=SimpleNamespace(inputs={name: SimpleNamespace(uri="x") for name in inputs}, name="job"),
        input=lambda name: tmp_path, scratch=lambda name: tmp_path, out=tmp_path, seed=0, first_rank=False,
        progress=lambda *args, **figures: None,
    )  # fmt: skip


def test_jobs_of_all_ranks_have_their_device_and_group_before_they_load(
    order: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rluf_assets.policy import llm_judge
    from rluf_assets.rewards import scoring, stage, training

    monkeypatch.setattr(scoring.RewardModel, "load", loader(order, "reward"))
    monkeypatch.setattr(llm_judge, "TransformersEngine", loader(order, "judge"))
    monkeypatch.setattr(training, "load_network", loader(order, "base"))
    monkeypatch.setattr(stage, "check_held", lambda *args, **options: None)
    monkeypatch.setattr(training, "training_arguments", lambda *args: None)
    rows = {"prompt": ["a", "b"] * 30, "completion": ["c", "d"] * 30, "label": [True, False] * 30}
    pl.DataFrame(rows).write_parquet(tmp_path / "train.parquet")
    (tmp_path / "rates.json").write_text("{}")
    judged = {"weights": {"love": 1.0}, "llm_judge": {"folder": "x"}}
    for job, config, inputs in (
        (optimise_policy, judged, ["rewards/love"]),
        (evaluate_candidate, {}, ["rewards/love"]),
        (train_reward, {"dtype": "float32"}, ["signal_set", "base"]),
    ):
        order.clear()
        with pytest.raises(Loaded):
            job.run(job_of(config, tmp_path, *inputs))
        loads = order.index(next(line for line in order if line.startswith("loads")))
        group = order.index("group 2:00:00")
        assert order[0] == "device 1"
        assert group < loads, (job.__name__, order)
        assert order[loads].endswith("onto cuda:1"), (job.__name__, order)
    assert torch.get_float32_matmul_precision() == "high"


def test_jobs_of_one_process_load_onto_their_own_device_and_wait_for_nobody(
    order: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rluf_assets.policy import base, engine
    from rluf_assets.rewards import scoring
    from rluf_assets.simulation import contexts

    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(scoring.RewardModel, "load", loader(order, "reward"))
    monkeypatch.setattr(engine, "TransformersEngine", loader(order, "policy"))
    monkeypatch.setattr(contexts, "draw_contexts", lambda *args: pl.DataFrame())
    texts = pl.DataFrame({"policy": ["a"], "prompt_id": ["p"], "prompt": ["x"], "completion": ["y"]})
    texts.write_parquet(tmp_path / "texts.parquet")
    texts.write_parquet(tmp_path / "launches.parquet")
    moved: list[str] = []
    model = SimpleNamespace(to=lambda where: moved.append(where) or (_ for _ in ()).throw(Loaded))
    monkeypatch.setattr(base, "check_checkpoint", lambda folder: None)
    monkeypatch.setattr(base, "load_checkpoint", lambda folder: (model, None))
    for job, config in (
        (play_ab_test, {"arm": "x"}), (offline_online_backtest, {}), (train_base_policy, {"checkpoint": "x"}),
    ):  # fmt: skip
        order.clear()
        with pytest.raises(Loaded):
            job.run(job_of(config, tmp_path))
        assert order[0] == "device 0", job.__name__
        assert not any(line.startswith("group") for line in order)
        assert all(line.endswith("onto cuda:0") for line in order if line.startswith("loads"))
    assert moved == ["cuda:0"]


def enter_launch(rank: int, port: int) -> Ranks:
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    return join()


def meet(rank: int, port: int, dies: bool, told: Any) -> None:
    """One of two processes; the second dies before it adds its share, or both take theirs."""
    ranks = enter_launch(rank, port)
    assert join() == ranks == Ranks(rank, 2)
    assert ranks.told("from the first" if ranks.first else "") == "from the first"
    if dies and rank == 1:
        os._exit(9)
    try:
        told.put(float(ranks.total(np.array([1.0 + rank]))[0]))
    except RankLost as error:
        told.put(str(error))
    told.close()
    told.join_thread()
    os._exit(0)


def work(rank: int, port: int, spec: Path, told: Any) -> None:
    """One of two processes of a job; the second dies while the first is in a collective call of a library's own."""
    enter_launch(rank, port)

    def stage(job: runner.Job) -> Any:
        torch.distributed.barrier()
        if not job.first_rank:
            os._exit(9)
        torch.distributed.all_reduce(torch.ones(3))  # as Trainer or DeepSpeed call it: nothing of ours around it
        raise AssertionError("the sum of one process was taken for the sum of two")

    said = io.StringIO()
    try:
        with redirect_stderr(said):
            runner.main(stage, [str(spec)], every_rank=True)
    except SystemExit as end:
        told.put((end.code, said.getvalue()))
    told.close()
    told.join_thread()
    os._exit(0)


def two(process: Callable[..., None], *given: Any) -> Any:
    """What the first of two processes tells, or whichever does."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = context.Queue()
    children = [context.Process(target=process, args=(rank, port, *given, told)) for rank in (0, 1)]
    for child in children:
        child.start()
    found = told.get(timeout=120)
    for child in children:
        child.join()
    return found


@pytest.mark.parametrize("dies", [False, True])
def test_a_process_that_dies_while_another_waits_for_it_is_a_named_error(dies: bool) -> None:
    found = two(meet, dies)
    if dies:
        assert "another process of this launch ended or did not answer" in found
    else:
        assert found == 3.0


def test_a_process_that_dies_inside_a_librarys_own_collective_call_ends_the_job_for_another_try(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(
        JobSpec(
            name="p_love",
            entrypoint="rluf_assets.jobs.train_reward",
            version="1",
            seed=0,
            output_uri=str(tmp_path / "out"),
        ).model_dump_json()
    )
    status, said = two(work, spec)
    assert status not in (0, runner.REFUSED), said
    assert said.startswith("RankLost: another process of this launch ended or fell silent")
    assert "continues from its last checkpoint" in said


def test_without_a_launch_a_process_is_alone_and_on_the_cpu() -> None:
    assert join() == Ranks(0, 1)
    assert device() == "cpu"
    assert Zero.of_launch("float32") is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP, expected ddp, zero2 or zero3"),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"},
            "zero_stage 0, expected 1, 2 or 3",
        ),
    ],
)
def test_what_no_job_can_run_under_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        Zero.of_launch("float32")


def test_a_reward_model_under_fsdp_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="FSDP, expected ddp, zero2 or zero3"):
        train_reward.run(job_of({}, tmp_path, "signal_set", "base"))


@pytest.mark.parametrize(("dtype", "bfloat16"), [("float32", False), ("bfloat16", True)])
def test_the_launch_says_the_stage_and_the_job_the_rest(
    monkeypatch: pytest.MonkeyPatch, dtype: str, bfloat16: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    monkeypatch.setenv("ACCELERATE_GRADIENT_CLIPPING", "7.0")
    zero = Zero.of_launch(dtype, max_gradient_norm=0.5)
    assert zero is not None
    assert zero.shards_weights
    assert zero.config["bf16"]["enabled"] is bfloat16
    assert zero.config["gradient_clipping"] == 0.5, "the candidate's own, not the launch's"
    assert zero.config["gradient_accumulation_steps"] == 1
