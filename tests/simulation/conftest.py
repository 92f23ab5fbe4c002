"""One small played production, shared by the tests of the simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rluf_assets.lake import Produced
from rluf_assets.simulation import users
from rluf_assets.simulation.config import SimulationConfig
from rluf_assets.simulation.policies import LOGGING
from rluf_assets.simulation.production import play_production
from rluf_assets.simulation.traffic import Turns, simulate_day

CONFIG = SimulationConfig(
    days=6, replies_per_day=4_000, policy_change_day=3, helpfulness_pairs=1_500, safety_pairs=1_000, defect_rate=1e-3
)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Produced]:
    out = tmp_path_factory.mktemp("production")
    return out, play_production(CONFIG, 0, out)


@pytest.fixture(scope="session")
def messages(store: tuple[Path, Produced]) -> pl.DataFrame:
    return pl.read_parquet(store[0] / "messages" / "*" / "*.parquet", hive_partitioning=True)


@pytest.fixture(scope="session")
def reactions(store: tuple[Path, Produced]) -> pl.DataFrame:
    return pl.read_parquet(store[0] / "reactions" / "*" / "*.parquet", hive_partitioning=True)


@pytest.fixture(scope="session")
def week() -> tuple[users.Population, Turns]:
    """A week of large traffic as latent choices, without text: 300,000 replies."""
    population = users.initial_population(40_000, np.random.default_rng(1), "test")
    days = []
    for day in range(7):
        population, turns = simulate_day(LOGGING, population, day, 40_000, np.random.default_rng([2, day]), "test")
        days.append(turns)
    return population, Turns.concat(days)
