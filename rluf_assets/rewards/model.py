"""The network of a reward model: loading a base, its score head and pad token, reading scores, saving.

Any `AutoModelForSequenceClassification` base is taken, a causal LM's folder too (its language-model head is dropped).
Nothing but safetensors is read or written, and no code of a checkpoint is run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.utils import logging as transformers_logging

from rluf_assets.chat import CHAT_TEMPLATE, END, PAD, SPECIAL_TOKENS
from rluf_assets.errors import DataError
from rluf_assets.rewards.attention import attend_in_float32, attends_both_ways, attention_window, position_limit
from rluf_assets.rewards.batching import Batch
from rluf_assets.rewards.config import LoraConfig
from rluf_assets.rewards.encoding import Encoder
from rluf_assets.rewards.pooling import LastLayerAtEnds
from rluf_assets.rewards.sharded import gathered

HEADS = ("score", "classifier")
# Rows of embeddings that are no multiple of this slow every product with them, and stop tensor parallelism.
VOCABULARY_MULTIPLE = 64


@dataclass
class RewardNetwork:
    """A sequence classifier with one label, its tokenizer, and what of the latter the folder did not have."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    added_tokens: list[str]
    added_template: bool

    @property
    def is_causal(self) -> bool:
        """Whether scores can be read at any token, which sharing prefixes needs."""
        return isinstance(self.model, GenericForSequenceClassification) and not attends_both_ways(self.model.config)

    def shares_prefixes(self, max_length: int) -> bool:
        """Whether rows of up to `max_length` tokens may share a pass over what they share: it takes attention to all."""
        window = attention_window(self.model.config)
        # A tree's mask says yes or no; models without this kernel (GPT-OSS, DeBERTa) would add it to their scores.
        masks = str(self.model.config._attn_implementation).startswith("sdpa")
        return self.is_causal and masks and (window is None or window >= max_length)

    @property
    def max_positions(self) -> int:
        return _positions(self.model.config)


def load_network(
    folder: str | Path, *, dropout: float = 0.0, dtype: str = "float32", device: str = "cpu"
) -> RewardNetwork:
    """Load a base or a finished reward model; a missing score head is drawn from N(0, 1/(d+1)).

    Under ZeRO-3 (told by `training_arguments`) a process holds its own part of every weight, never the whole model.
    Adds a pad token of its own where the base has none or shares it with the end token, and the default chat template
    with its tokens where it has none. Raises DataError for corrupt or mismatched folders.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    tokenizer = _load_tokenizer(folder)
    try:
        config = AutoConfig.from_pretrained(folder, num_labels=1, trust_remote_code=False)
        for name, value in config.to_dict().items():
            if "dropout" in name and isinstance(value, int | float) and not isinstance(value, bool):
                setattr(config, name, dropout)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise DataError(
            f"{folder}: cannot be loaded as a sequence classifier ({type(error).__name__}: {error}). "
            "Expected a Hugging Face folder with config.json and whole safetensors of the same architecture."
        ) from error
    if dtype == "bfloat16" and device == "cpu":
        attend_in_float32(model)
    missing = {name for name in report["missing_keys"] if not name.startswith((*HEADS, "pooler", "bert.pooler"))}
    if missing:
        raise DataError(f"{folder}: weights missing from its safetensors: {sorted(missing)[:5]}. Restore the folder.")
    _check_tokenizer(folder, tokenizer, model)
    added_template = tokenizer.chat_template is None
    added = _own_tokens(tokenizer)
    if len(tokenizer) > _embeddings(model):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False, pad_to_multiple_of=VOCABULARY_MULTIPLE)
    if tokenizer.cls_token_id is not None:
        _begin_as_cls(tokenizer, model, added)
    model.config.pad_token_id = tokenizer.pad_token_id
    for name in {key.split(".")[0] for key in report["missing_keys"] if key.startswith(HEADS)}:
        _init_head(model.get_submodule(name))
    for layer in _head_layers(model):
        layer.__class__ = Float32Linear
    return RewardNetwork(model, tokenizer, added, added_template)


def encoder_of(folder: str | Path, max_length: int) -> Encoder:
    """How a network loaded from `folder` will render and cut conversations, without its weights."""
    tokenizer = _load_tokenizer(folder)
    _own_tokens(tokenizer)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: no usable config.json ({error}). Expected a Hugging Face model folder.") from error
    return Encoder(tokenizer, min(max_length, _positions(config)))


def _positions(config: PretrainedConfig) -> int:
    return position_limit(config) or 2**30


def _load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception for a corrupt file
        raise DataError(f"{folder}: no usable tokenizer ({error}). Save one beside the model.") from error
    tokenizer.padding_side = "right"
    return tokenizer


def _check_tokenizer(folder: str | Path, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    rows = _embeddings(model)
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise DataError(
            f"{folder}: the tokenizer does not match the model: token id {highest}, but {rows} embeddings. "
            "Use the tokenizer that the model was trained with."
        )


def _embeddings(model: PreTrainedModel) -> int:
    weight = model.get_input_embeddings().weight
    return int(getattr(weight, "ds_shape", weight.shape)[0])  # ZeRO-3 leaves an empty tensor in a weight's place


def _own_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Complete a base's tokenizer: our chat template with its tokens, and a pad token of its own; what was added."""
    before = set(tokenizer.get_vocab())
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.add_special_tokens(
            {"extra_special_tokens": [t for t in SPECIAL_TOKENS if t not in before and t not in (PAD, END)]}
        )
        tokenizer.add_tokens([END], special_tokens=True)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in (tokenizer.eos_token_id, tokenizer.unk_token_id):
        tokenizer.add_special_tokens({"pad_token": PAD})
    return sorted(set(tokenizer.get_vocab()) - before)


def _begin_as_cls(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, added: list[str]) -> None:
    """Give added tokens an encoder's own: [CLS] where a message begins, [SEP] where it ends.

    An encoder is read at its first token. Were that a token drawn anew, all that pretraining put there would be lost.
    """
    weight = model.get_input_embeddings().weight
    with gathered([weight]), torch.no_grad():
        for token in set(added) - {PAD}:
            like = tokenizer.sep_token_id if token == END else tokenizer.cls_token_id
            weight[tokenizer.convert_tokens_to_ids(token)] = weight[like]


class Float32Linear(nn.Linear):
    """A layer of the score head: computed in float32 whatever precision runs around it.

    Rounded to bfloat16 the best of four replies is another, or ties, in 3-6% of prompts. `where` (rows, ends): the
    tokens that the next pass reads; with one output it computes no others.
    """

    where: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        where, self.where = self.where, None
        with torch.autocast(states.device.type, enabled=False):
            if self.out_features > 1:
                bias = None if self.bias is None else self.bias.float()
                return nn.functional.linear(states.float(), self.weight.float(), bias)
            if where is None or states.ndim < 3:
                return self._score(states)
            # Equal sequences end at one node: each node once, or its gradient would count for each of them in full.
            nodes = torch.unique(where[0] * states.shape[1] + where[1])
            at = nodes // states.shape[1], nodes % states.shape[1]
            scores = self._score(states[at])
            return scores.new_zeros(*states.shape[:2], 1).index_put(at, scores)

    def _score(self, states: torch.Tensor) -> torch.Tensor:
        """Not a matrix product, which a GPU would round to TF32."""
        scores = torch.linalg.vecdot(states.float(), self.weight[0].float())[..., None]
        return scores if self.bias is None else scores + self.bias.float()


def _head_layers(model: nn.Module) -> list[nn.Linear]:
    heads = [module for name, module in model.named_children() if name in HEADS]
    return [layer for head in heads for layer in head.modules() if isinstance(layer, nn.Linear)]


def to_pass(model: PreTrainedModel, device: str, dtype: str) -> None:
    """Move a model to `device` for passes in `dtype`: its head, and buffers such as rotary frequencies, stay float32."""
    model.to(device)
    kept = {id(parameter) for layer in _head_layers(model) for parameter in layer.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.to(getattr(torch, dtype))


def _init_head(head: nn.Module) -> None:
    """Standard deviation 1/sqrt(d+1), bias 0, so that scores start within a few units (Stiennon et al. 2020)."""
    with gathered(list(head.parameters())):
        for layer in head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features + 1))
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def with_lora(network: RewardNetwork, lora: LoraConfig) -> Any:
    """The model wrapped in low-rank adapters; the head, and embeddings of added tokens, stay trainable in full."""
    from peft import LoraConfig as PeftConfig
    from peft import TaskType, get_peft_model

    heads = [name for name in HEADS if name in dict(network.model.named_children())]
    token_ids = network.tokenizer.convert_tokens_to_ids(network.added_tokens)
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    embeddings = next(n for n, m in network.model.named_modules() if m is network.model.get_input_embeddings())
    config = PeftConfig(
        task_type=TaskType.SEQ_CLS,
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=targets,
        modules_to_save=heads,
        trainable_token_indices={embeddings.split(".")[-1]: token_ids} if token_ids else None,
    )
    # ZeRO-3 wants all that is trained in one precision, the base's.
    return get_peft_model(network.model, config, autocast_adapter_dtype=False)


class ScoreReader:
    """Logits at the end token of every sequence in a batch, float32 of shape (sequences,).

    Hugging Face's forward returns one logit per row; a hook on the score head hands out the one at any token, so that
    the model itself stays as Trainer, peft and DeepSpeed expect it. It is hung up for each pass, hence after any hook
    of DeepSpeed's: what ZeRO-3's own hook returns is what brings the head's weight back for the backward pass.
    """

    def __init__(self, network: RewardNetwork) -> None:
        self.is_causal = network.is_causal
        self._token_logits: torch.Tensor | None = None
        self._score = network.model.get_submodule("score") if self.is_causal else None
        self._layers = [m for m in self._score.modules() if isinstance(m, Float32Linear)] if self._score else []
        self._last_layer = LastLayerAtEnds(network.model) if LastLayerAtEnds.fits(network.model) else None

    def _keep(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self._token_logits = output

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Run `model` (the network's, or whatever wraps it) on a batch of `collate`."""
        ids = batch["input_ids"]
        if self._score is None:
            mask = torch.arange(ids.shape[1], device=ids.device) < batch["lengths"][:, None]
            return model(input_ids=ids, attention_mask=mask.long()).logits[batch["rows"], 0].float()
        shape = {}
        if "subtree_ends" in batch:
            shape = {"position_ids": batch["position_ids"], "attention_mask": tree_mask(batch["subtree_ends"])}
        if self._last_layer is not None:
            self._last_layer.at(batch["rows"], batch["ends"])
        for layer in self._layers:
            layer.where = batch["rows"], batch["ends"]
        # Without branches plain causal attention is right: padding stands to the right, where no end token looks.
        hook = self._score.register_forward_hook(self._keep)
        try:
            model(input_ids=ids, use_cache=False, **shape)
        finally:
            hook.remove()
        token_logits, self._token_logits = self._token_logits, None
        assert token_logits is not None
        return token_logits[batch["rows"], batch["ends"], 0].float()


class FeatureTap:
    """Keeps what the score head's last linear layer reads, for as long as the tap is open (`with FeatureTap(...)`)."""

    def __init__(self, network: RewardNetwork) -> None:
        head = next(m for name, m in network.model.named_children() if name in HEADS)
        self._layer = [m for m in head.modules() if isinstance(m, nn.Linear)][-1]
        self._seen: torch.Tensor | None = None

    @property
    def width(self) -> int:
        """Features per sequence."""
        return int(self._layer.in_features)

    def __enter__(self) -> FeatureTap:
        self._hook = self._layer.register_forward_hook(self._keep)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    def _keep(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self._seen = inputs[0]

    def at(self, batch: Batch) -> np.ndarray:
        """Features (sequences, width) of the batch that went through last, in the order of its scores."""
        seen, self._seen = self._seen, None
        assert seen is not None
        picked = seen[batch["rows"], batch["ends"]] if seen.ndim == 3 else seen[batch["rows"]]
        return picked.float().cpu().numpy()


def tree_mask(subtree_ends: torch.Tensor) -> torch.Tensor:
    """Boolean attention mask (rows, 1, queries, keys): a token sees itself and its ancestors."""
    nodes = torch.arange(subtree_ends.shape[1], device=subtree_ends.device)
    seen = (nodes[None, None, :] <= nodes[None, :, None]) & (nodes[None, :, None] < subtree_ends[:, None, :])
    return seen[:, None]


def save_network(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save as a plain `AutoModelForSequenceClassification` folder: adapters merged, float32 safetensors."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.config.use_cache = True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
