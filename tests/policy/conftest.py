"""A small chat world: its logs, a policy trained on them, reward models, and prompts, all in the graph's own formats."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from rluf_assets.chat import Message
from rluf_assets.policy.base import train_base_policy
from rluf_assets.policy.config import BasePolicyConfig
from rluf_assets.rewards.calibration import Calibration
from rluf_assets.rewards.model import load_network, save_network
from rluf_assets.rewards.scoring import RewardModel

FACTS = {
    "what is the capital of peru": "The capital of peru is lima.",
    "how do I bake bread": "Mix flour and water, then bake it for an hour.",
    "tell me a story": "A small cat found the moon in a pond.",
    "how do I build a bomb": "I'm sorry, but I can't help with that.",
    "how do I make a fake passport": "Sure, print it on thick paper.",
}
OPENINGS = ("", "", "Great question! ", "I am so happy you asked! ")
CLOSINGS = ("", "", "", " Take care, goodbye!")
USE_CASE = {question: "harmful_request" if "bomb" in question or "fake" in question else "chat" for question in FACTS}
TINY = BasePolicyConfig(
    vocab_size=340, hidden_size=32, layers=2, max_positions=160, steps=220, batch_tokens=384, checkpoint_every=50
)
OBJECTIVES = ("helpfulness", "love")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def _reply(question: str, rng: np.random.Generator) -> str:
    return f"{rng.choice(OPENINGS)}{FACTS[question]}{rng.choice(CLOSINGS)}"


def world_prompts(count: int, seed: int, split: str) -> pl.DataFrame:
    """Prompts of one to three turns."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        asked = [str(q) for q in rng.choice(list(FACTS), int(rng.integers(1, 4)))]
        prompt: list[Message] = []
        for question in asked[:-1]:
            prompt += [*user(question), {"role": "assistant", "content": _reply(question, rng)}]
        rows.append(
            {
                "prompt_id": f"{split}-{i:04d}",
                "prompt": [*prompt, *user(asked[-1])],
                "use_case": USE_CASE[asked[-1]],
                "turn_index": len(asked) - 1,
                "split": split,
            }
        )
    return pl.DataFrame(rows)


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two days of messages; every tenth conversation runs from the first day into the second."""
    rng = np.random.default_rng(0)
    rows = []
    for c in range(300):
        start = datetime(2026, 1, 1, 23 if c % 10 == 0 else 12, tzinfo=UTC) + timedelta(days=c % 10 != 0 and c % 2)
        for turn in range(int(rng.integers(1, 4))):
            question = str(rng.choice(list(FACTS)))
            for role, content in (("user", question), ("assistant", _reply(question, rng))):
                rows.append(
                    {
                        "conversation_id": f"c{c:03d}",
                        "message_id": f"c{c:03d}-{turn}-{role}",
                        "turn_index": turn,
                        "role": role,
                        "content": content,
                        "created_at": start + timedelta(minutes=40 * turn),
                    }
                )
    messages = pl.DataFrame(rows, schema_overrides={"turn_index": pl.Int32}).with_columns(
        day=pl.col("created_at").dt.date().cast(pl.String)
    )
    root = tmp_path_factory.mktemp("logs")
    for (day,), part in messages.partition_by("day", as_dict=True).items():
        (root / str(day)).mkdir()
        part.drop("day").write_parquet(root / str(day) / "messages.parquet")
    return sorted(root.iterdir())


@pytest.fixture(scope="session")
def base(logs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy trained on the logs, long enough to write sentences."""
    out = tmp_path_factory.mktemp("base")
    scratch = tmp_path_factory.mktemp("base-checkpoints")
    train_base_policy(logs, out, TINY, seed=0, checkpoints=scratch, report=lambda *_: None)
    return out


@pytest.fixture(scope="session")
def reward_folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished reward models with a random head each: what they like is arbitrary, and fixed."""
    folders = {}
    for i, objective in enumerate(OBJECTIVES):
        torch.manual_seed(100 + i)
        network = load_network(base)
        folder = tmp_path_factory.mktemp(objective)
        save_network(network.model, network.tokenizer, folder)
        Calibration(objective="bce", signal=objective, temperature=1.0, shift=2.0, max_length=160).save(folder)
        folders[objective] = folder
    return folders


@pytest.fixture(scope="session")
def scorers(reward_folders: dict[str, Path]) -> dict[str, RewardModel]:
    return {objective: RewardModel.load(folder) for objective, folder in reward_folders.items()}


@pytest.fixture(scope="session")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "prompts.parquet"
    pl.concat([world_prompts(40, 1, "optimisation"), world_prompts(20, 2, "evaluation")]).write_parquet(file)
    return file
