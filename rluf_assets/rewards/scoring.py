"""RewardModel: the one way to score replies, at training time, in evaluation, optimisation, notebooks and the CLI.

Rows are rendered, cut at whole turns, grouped so that shared text passes once, and batched by length under a token
budget. A batch of one gives what a batch of many gives, within float32 rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch

from rluf_assets.chat import Message
from rluf_assets.distributed import ALONE, Ranks, Zero, device, join, pass_dtype
from rluf_assets.errors import DataError, TrainingError
from rluf_assets.rewards.batching import Batch, Unit, budget_batches, collate, make_unit
from rluf_assets.rewards.calibration import Calibration, load_calibration
from rluf_assets.rewards.encoding import Encoder
from rluf_assets.rewards.ensemble import Ensemble, load_ensemble
from rluf_assets.rewards.model import FeatureTap, RewardNetwork, ScoreReader, load_network, to_pass
from rluf_assets.rewards.trees import group_rows

log = logging.getLogger(__name__)
# Longest tree in rows of the model's own length: beyond, dense attention costs more than sharing saves.
MAX_TREE_ROWS = 2
MEMBERS = pl.List(pl.Float64)
NO_MEMBERS = (
    pl.lit(None, MEMBERS).alias("member_live_probability"),
    pl.lit(None, pl.Float64).alias("disagreement"),
)


def finite(logits: np.ndarray, what: str, dtype: object) -> np.ndarray:
    """The scores as they are. Raises TrainingError if some are no numbers: no figure can rest on them."""
    bad = int((~np.isfinite(logits)).sum())
    if bad:
        precision = str(dtype).removeprefix("torch.")
        raise TrainingError(
            f"{what}: {bad} of {len(logits)} scores are NaN or infinite (passes in {precision}). The model's weights are "
            "no numbers, or its passes overflow: train with a lower learning_rate, or use dtype: float32."
        )
    return logits


class RewardModel:
    """A finished reward model that scores (prompt, completion) rows."""

    def __init__(
        self,
        network: RewardNetwork,
        calibration: Calibration,
        *,
        share_prefixes: bool = True,
        ensemble: Ensemble | None = None,
    ) -> None:
        self.network = network
        self.calibration = calibration
        self.ensemble = ensemble
        self.encoder = Encoder(network.tokenizer, min(calibration.max_length, network.max_positions))
        self.share_prefixes = share_prefixes and network.shares_prefixes(self.encoder.max_length)
        self._reader = ScoreReader(network)
        self._passes: torch.nn.Module = network.model
        self.ranks, self._sharded = ALONE, False

    def pass_through(self, module: torch.nn.Module, ranks: Ranks) -> None:
        """Send passes through `module`, which shards the network over `ranks`: all must then score the same rows, in step.

        Each computes its share of the batches, and all have all scores.
        """
        self._passes, self.ranks, self._sharded = module, ranks, True

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str = "cpu", dtype: str = "float32", share_prefixes: bool = True
    ) -> RewardModel:
        """Load a reward-model folder. `dtype="bfloat16"` is faster and moves scores in the third figure; the score
        itself is float32.

        Raises ArtifactMissing if it is not finished, DataError if its calibration, weights or tokenizer are corrupt.
        """
        calibration = load_calibration(folder)
        network = load_network(folder, device=device)
        if network.added_tokens or network.added_template:
            absent = network.added_tokens or "its chat template"
            raise DataError(
                f"{folder}: the tokenizer lacks {absent}, so it is not the one this reward model was trained with. "
                "Restore the tokenizer files and the chat template."
            )
        to_pass(network.model, device, dtype)
        network.model.eval()
        return cls(network, calibration, share_prefixes=share_prefixes, ensemble=load_ensemble(folder))

    def score(
        self,
        prompts: Sequence[Sequence[Message]],
        completions: Sequence[str],
        *,
        batch_tokens: int = 16_384,
        members: bool = False,
        strata: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """Columns logit, probability (training rate), live_probability; one row per input row, in input order.

        `strata`: each row's use case and turn as `strata_of` names them. Where negatives were matched, the live
        probability is that of the row's own stratum; without them it is the overall one.

        With `members` also `member_live_probability` (a list, one per member of the ensemble) and `disagreement` (their
        spread over that of 99% of logged replies), both null where the model has no ensemble.
        A row that does not fit the model's length even with one turn loses its oldest tokens, as it does when a policy
        answers it; the log says how many. Raises DataError if the two lengths differ.
        """
        if len(prompts) != len(completions):
            raise DataError(f"score: {len(prompts)} prompts but {len(completions)} completions. Give one per row.")
        encoded = self.encoder.encode(prompts, completions)
        token_ids = [ids[-self.encoder.max_length :] for ids in encoded.token_ids]
        if encoded.too_long.any():
            first = int(encoded.too_long.argmax())
            log.warning(
                "%d of %d rows do not fit %d tokens even with one turn (first: row %d, %d tokens); their oldest tokens "
                "were not read.", int(encoded.too_long.sum()), len(token_ids), self.encoder.max_length, first,
                len(encoded.token_ids[first]),
            )  # fmt: skip
        if not (members and self.ensemble):
            logits = self.score_token_ids(token_ids, batch_tokens=batch_tokens).astype(np.float64)
            found = self.probabilities(logits, strata)
            return found.with_columns(NO_MEMBERS) if members else found
        logits, features = self.read_token_ids(token_ids, batch_tokens=batch_tokens)
        odds = self.ensemble.log_odds(logits, features)
        return self.probabilities(logits, strata).with_columns(
            pl.Series("member_live_probability", self.ensemble.live_probabilities(odds).tolist(), MEMBERS),
            pl.Series("disagreement", self.ensemble.disagreement(odds), pl.Float64),
        )

    def probabilities(self, logits: np.ndarray, strata: Sequence[str] | None = None) -> pl.DataFrame:
        """Columns logit, probability and live_probability of raw logits; `strata` as in `Calibration`."""
        return pl.DataFrame(
            {
                "logit": logits,
                "probability": self.calibration.probability(logits),
                "live_probability": self.calibration.live_probability(logits, strata),
            }
        )

    def score_token_ids(self, token_ids: Sequence[np.ndarray], *, batch_tokens: int = 16_384) -> np.ndarray:
        """Raw logits of rendered rows, float32 (rows,)."""
        return self._pass(token_ids, batch_tokens, None)

    def read_token_ids(
        self, token_ids: Sequence[np.ndarray], *, batch_tokens: int = 16_384
    ) -> tuple[np.ndarray, np.ndarray]:
        """Raw logits (rows,) of rendered rows, and the pooled features (rows, width) that the score head reads."""
        with FeatureTap(self.network) as tap:
            features = np.zeros((len(token_ids), tap.width))
            logits = self._pass(token_ids, batch_tokens, (tap, features))
        return logits.astype(np.float64), features

    @torch.no_grad()  # not inference_mode: a sharded network gathers weights that must stay ordinary tensors
    def _pass(
        self, token_ids: Sequence[np.ndarray], batch_tokens: int, kept: tuple[FeatureTap, np.ndarray] | None
    ) -> np.ndarray:
        """Logits of rendered rows; with `kept`, their features too, written into its array."""
        groups: Sequence[Sequence[int]] = [[i] for i in range(len(token_ids))]
        if self.share_prefixes and len(token_ids):
            groups = group_rows(token_ids, MAX_TREE_ROWS * self.encoder.max_length)
        units = [make_unit([token_ids[i] for i in group], group, share=True) for group in groups]
        logits = np.zeros(len(token_ids), np.float32)
        was_training = self.network.model.training
        self.network.model.eval()
        batches = list(budget_batches(units, batch_tokens, self.ranks.size))
        mine = batches[self.ranks.rank :: self.ranks.size]
        idle = -(-len(batches) // self.ranks.size) - len(mine) if self._sharded else 0
        for batch_units in mine:
            examples, batch = self._collated(batch_units)
            logits[examples] = self._reader(self._passes, batch).cpu().numpy()
            if kept is not None:
                tap, features = kept
                features[examples] = tap.at(batch)
        for _ in range(idle):
            # An idle pass: another process has more than this one, and waits for it in every layer.
            self._reader(self._passes, self._collated([make_unit([np.zeros(1, np.int64)], [0], share=True)])[1])
        self.network.model.train(was_training)
        if kept is not None:
            kept[1][:] = self.ranks.total(kept[1])
        return self.ranks.total(logits)

    def _collated(self, units: Sequence[Unit]) -> tuple[np.ndarray, Batch]:
        batch = collate(units, int(self.network.tokenizer.pad_token_id))
        examples = batch.pop("examples").numpy()
        return examples, {name: values.to(self.network.model.device) for name, values in batch.items()}


def load_scorer(
    folder: Path, dtype: str, zero: Zero | None, *, ranks: Ranks = ALONE, share_prefixes: bool = True
) -> RewardModel:
    """A finished reward model that scores in `dtype` on this process's device; in parts where the stage shards weights.

    `ranks`: those that score the same rows together, each its share of the batches.
    """
    dtype = pass_dtype(dtype)
    load = partial(RewardModel.load, folder, device=device(), dtype=dtype, share_prefixes=share_prefixes)
    return over_ranks(load, zero, ranks)


def over_ranks(load: Callable[[], RewardModel], zero: Zero | None, ranks: Ranks = ALONE) -> RewardModel:
    """What `load` loads, whole on each of the `ranks`; where the stage shards weights, each rank's part of it."""
    if zero is None or not zero.shards_weights:
        model = load()
        model.ranks = ranks
        return model
    with zero.loading():
        model = load()
    model.pass_through(zero.read_only(model.network.model), join())
    return model
