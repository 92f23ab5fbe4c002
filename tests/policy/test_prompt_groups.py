"""Gradient-level mixing: prompt groups with weights, judges and N of their own, and the step's gradient as their sum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from rluf_assets.policy.batch import BASELINE
from rluf_assets.policy.config import PromptGroup
from rluf_assets.policy.engine import TransformersEngine
from rluf_assets.policy.selecting import completions_of
from rluf_assets.policy.update import _shares, loss_pieces
from tests.policy.test_loop import CONFIG, Scorers, changed, optimise


class TestGroups:
    GROUPS = (
        PromptGroup(
            name="harm", use_cases=("harmful_request",), weights={"love": 1.0}, judges=(), completions_per_prompt=2,
            kl_max=1.5, gradient_weight=3.0,
        ),
        PromptGroup(name="rest", weights={"helpfulness": 1.0}, judges=("repetition",), completions_per_prompt=5),
    )  # fmt: skip

    def test_each_group_has_its_own_weights_judges_and_n(
        self, base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path
    ) -> None:
        config = changed(CONFIG, groups=[group.model_dump() for group in self.GROUPS], iterations=2)
        rows = optimise(base, prompts_file, scorers, tmp_path, config)
        assert all(row["learned"] > 0 for row in rows)
        found = pl.read_parquet(tmp_path / "phases" / "000002" / "select.parquet")
        harm, rest = (found.filter(pl.col("group") == name) for name in ("harm", "rest"))
        assert set(harm["use_case"]) == {"harmful_request"}
        assert harm.filter(pl.col("completion_id") != BASELINE)["completion_id"].max() == 1
        assert rest["completion_id"].max() == 4
        assert harm["judge_repetition"].null_count() == harm.height
        np.testing.assert_allclose(harm["reward"], harm["value_love"])
        np.testing.assert_allclose(rest["reward"], rest["value_helpfulness"])

    def test_gradients_are_the_weighted_sum_of_the_groups(
        self, base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path
    ) -> None:
        """The step's gradient against autograd of the formula, and in small batches against one large one."""
        optimise(base, prompts_file, scorers, tmp_path, changed(CONFIG, iterations=1))
        rows = pl.read_parquet(tmp_path / "phases" / "000001" / "select.parquet").with_row_index("place")
        learned = rows.filter(pl.col("role").is_not_null()).with_columns(
            group=pl.when(pl.col("use_case") == "harmful_request").then(pl.lit("harm")).otherwise(pl.lit("rest"))
        )
        assert learned["group"].n_unique() == 2
        gradients = []
        for tokens in (40, 100_000):
            engine = TransformersEngine(base)
            config = changed(CONFIG, forward_tokens=tokens)
            for piece in loss_pieces(engine, learned, self.GROUPS, config, {}):
                piece().backward()
            gradients.append([p.grad.clone() for p in engine.model.parameters()])
        engine = TransformersEngine(base)
        total = torch.zeros(())
        for name, rho in (("harm", 3.0), ("rest", 1.0)):
            part = learned.filter(pl.col("group") == name)
            pairs = engine.encode_pairs(part["prompt"].to_list(), completions_of(part), CONFIG.max_new_tokens)
            logprob = engine.token_logprobs(pairs).sum(dim=1)
            total = total - rho * (torch.tensor(part["weight"].to_list()) * logprob).sum() / part.height
        total.backward()
        for small, large, exact in zip(*gradients, [p.grad for p in engine.model.parameters()], strict=True):
            torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(large, exact, rtol=1e-3, atol=1e-4)

    def test_shares_spread_every_group_over_the_steps(self) -> None:
        learned = pl.DataFrame({"prompt_id": [f"p{i:02d}" for i in range(12)], "group": ["harm"] * 4 + ["rest"] * 8})
        shares = _shares(learned, self.GROUPS, 4, 0)
        assert [share["group"].to_list() for share in shares] == [["harm", "rest", "rest"]] * 4
        assert sorted(id_ for share in shares for id_ in share["prompt_id"]) == sorted(learned["prompt_id"])
