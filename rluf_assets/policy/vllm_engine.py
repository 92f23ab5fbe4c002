"""VLLMEngine: sampling by vLLM. One engine stays alive over the iterations, and every policy is loaded into it in place.

vLLM pins its own torch, so a job that samples with it runs in an environment of its own (`make vllm-env` for the CPU, the
extra `vllm` for a GPU; the launcher's `python` names it). It is the sampler only: log-ratios and the update stay with
the model that is trained. The engine lives in the job's own process, so weights are handed to it in memory
(vllm_weights.py); it holds their version, and every sampling asks for it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from rluf_assets.chat import Message
from rluf_assets.errors import ConfigError, TrainingError
from rluf_assets.policy.config import VllmConfig
from rluf_assets.policy.engine import Completion, prompt_keys, room
from rluf_assets.policy.prompts import PromptEncoder
from rluf_assets.policy.reply_tokens import ReplyTokens, end_ids
from rluf_assets.rewards.attention import position_limit

# What a CPU sets aside for keys and values, in GiB; on a GPU `memory_share` says it.
CPU_CACHE_GIB = "1"
BATCHED_TOKENS = 8_192


class WeightReloader:
    """What vLLM's workers learn to do (a *worker extension*: its methods become theirs)."""

    def reload_policy(self, folder: str) -> None:
        """Load a folder's weights in place."""
        from rluf_assets.policy.vllm_weights import pack_tied_head

        self.reload_weights(weights_path=folder)  # type: ignore[attr-defined]
        pack_tied_head(self.model_runner.get_model())  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Loaded:
    """An engine together with the policy version that it must hold whenever this samples."""

    engine: VLLMEngine
    version: str

    @property
    def together(self) -> int:
        return self.engine.together

    def sample(self, prompts: Sequence[Sequence[Message]], **settings: Any) -> list[list[Completion]]:
        """As the engine's. Raises TrainingError if other weights have been loaded since."""
        return self.engine.sample(prompts, version=self.version, **settings)


class VLLMEngine:
    """Samples completions of chat prompts from a Hugging Face causal LM folder with vLLM.

    In a job of several processes (`ranks`) each is one worker of vLLM's, and `tensor_parallel` consecutive ones hold one
    copy of the policy between them: they must be asked the same, in step, and all of them have the answer.

    `prompts` and `max_new_tokens`: what it will be asked at most. It then keeps room for the longest of them and its reply,
    not for all the positions that the model knows, which may be a hundred times as many.
    """

    def __init__(
        self,
        folder: str | Path,
        config: VllmConfig | None = None,
        *,
        ranks: int = 1,
        prompts: Sequence[Sequence[Message]] | None = None,
        max_new_tokens: int = 0,
    ) -> None:
        config = config or VllmConfig()
        self.together = config.tensor_parallel if ranks > 1 else 1
        # Without ranks of a launch, one copy over several GPUs has worker processes of vLLM's own.
        self.in_process = ranks > 1 or config.tensor_parallel == 1
        spread: dict[str, Any] = {}
        if ranks > 1:
            spread["distributed_executor_backend"] = "external_launcher"
        if self.in_process:
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the worker is this process, which has a GPU already
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE_GIB)
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from transformers import AutoConfig
        from vllm import LLM

        from rluf_assets.policy import vllm_weights

        if self.in_process:
            vllm_weights.register()
            spread["weight_transfer_config"] = {"backend": vllm_weights.BACKEND}
        self.folder = str(folder)
        self.encoder = PromptEncoder(AutoTokenizer.from_pretrained(folder))
        model_config = AutoConfig.from_pretrained(folder).get_text_config()
        self.max_positions = position_limit(model_config) or 0
        if prompts is not None:
            ids = self.encoder.encode(prompts, room(self.folder, self.max_positions, max_new_tokens))
            self.max_positions = max(map(len, ids), default=0) + max_new_tokens
        self.tied = bool(getattr(model_config, "tie_word_embeddings", False))
        width = getattr(model_config, "head_dim", None) or model_config.hidden_size // model_config.num_attention_heads
        if width < 32:
            raise ConfigError(f"{folder}: heads of {width}, vLLM wants 32 or more. Set engine: transformers.")
        self.tokens = ReplyTokens.of(
            end_ids(folder, self.encoder), self.encoder, int(model_config.vocab_size), self.folder
        )
        self.llm = LLM(
            self.folder,
            dtype=config.dtype,
            tensor_parallel_size=config.tensor_parallel,
            **spread,
            gpu_memory_utilization=config.memory_share,
            enforce_eager=not torch.cuda.is_available() if config.enforce_eager is None else config.enforce_eager,
            max_model_len=self.max_positions,
            enable_prefix_caching=True,
            # A prompt cut in chunks rewinds its random generator after each, which a CPU's cannot.
            enable_chunked_prefill=torch.cuda.is_available(),
            max_num_batched_tokens=max(BATCHED_TOKENS, self.max_positions),
            # Log-probabilities at temperature 1, whatever temperature the tokens are drawn at.
            logprobs_mode="raw_logprobs",
            # Else the checkpoint's own top_k and the like would be used unasked.
            generation_config="vllm",
            worker_extension_cls=f"{WeightReloader.__module__}.{WeightReloader.__qualname__}",
        )
        self.version = weights_version(folder)
        self.llm.llm_engine.set_weight_version(self.version)

    def load(self, folder: str | Path) -> Loaded:
        """Take another folder's weights, of the same shapes, and forget every cached prefix."""
        version = weights_version(folder)
        if version != self.version:
            self.llm.collective_rpc("reload_policy", args=(str(folder),))
            if not self.llm.reset_prefix_cache():
                raise TrainingError(
                    f"{folder}: vLLM did not drop the prefixes of the policy before. Run the job again."
                )
            self.llm.llm_engine.set_weight_version(version)
            self.version = version
        return Loaded(self, version)

    def take(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Loaded:
        """Take whole weights by their names in a checkpoint, in memory; one after another, so a sharded policy is never whole.

        Raises TrainingError if they are not exactly those that the folder this engine began with holds.
        """
        from rluf_assets.policy.vllm_weights import hand_over, stored_names

        if not self.in_process:
            raise TrainingError(f"{self.folder}: vLLM's workers are other processes; load() a folder instead.")
        given: set[str] = set()

        def noted() -> Iterator[tuple[str, torch.Tensor]]:
            for name, values in stored_names(weights, self.tied):
                given.add(name)
                yield name, values

        self.version = hand_over(self.llm, noted())
        if given != (held := checkpoint_names(self.folder)):
            raise TrainingError(
                f"{self.folder}: {len(given ^ held)} weights of the policy go by other names in its folder, such as "
                f"{sorted(given ^ held)[:2]}."
            )
        self.llm.llm_engine.set_weight_version(self.version)
        return Loaded(self, self.version)

    def sample(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        n: int,
        max_new_tokens: int,
        temperature: float = 1.0,
        seed: int,
        only: Sequence[int] | None = None,
        version: str | None = None,
    ) -> list[list[Completion]]:
        """n completions of each prompt, in input order; temperature 0 is greedy. Contexts are cut as TransformersEngine does.

        `version`: which weights are expected. Raises TrainingError if the engine holds others.
        """
        held = self.llm.llm_engine.get_weight_version()
        if version is not None and held != version:
            raise TrainingError(f"vLLM holds policy {held[:12]}, expected {version[:12]}: load() it first.")
        ids = self.encoder.encode(prompts, room(self.folder, self.max_positions, max_new_tokens))
        draws = n if temperature > 0 else 1
        keys = prompt_keys(ids, seed)
        if only is not None:
            ids, keys = [ids[i] for i in only], [keys[i] for i in only]
        params = [
            self._params(n=draws, max_tokens=max_new_tokens, temperature=temperature, seed=key % 2**63) for key in keys
        ]
        found = [drawn for output in self.generate(ids, params) for drawn in sorted(output.outputs, key=_index)]
        tokens = [list(drawn.token_ids) for drawn in found]
        texts = self.encoder.decode([self.tokens.text_ids(row) for row in tokens])
        replies = [
            Completion(
                text, row, drawn.finish_reason == "stop", float(drawn.cumulative_logprob), self.tokens.controls(row)
            )
            for text, row, drawn in zip(texts, tokens, found, strict=True)
        ]
        return [replies[i * draws : (i + 1) * draws] * (n // draws) for i in range(len(ids))]

    def generate(self, ids: Sequence[list[int]], params: Any) -> list[Any]:
        """vLLM's own request outputs for prompts given as token ids, in input order."""
        return list(self.llm.generate([{"prompt_token_ids": row} for row in ids], params, use_tqdm=False))

    def _params(self, **settings: Any) -> Any:
        from vllm import SamplingParams

        # A ban is a bias: raw log-probabilities are those before it. -100 is the least that vLLM takes.
        return SamplingParams(
            logprobs=0,
            detokenize=False,
            stop_token_ids=sorted(self.tokens.ends),
            logit_bias=dict.fromkeys(self.tokens.banned, -100.0) or None,
            **settings,
        )


def _index(drawn: Any) -> int:
    return int(drawn.index)


def checkpoint_names(folder: str | Path) -> set[str]:
    """Names of the weights in a folder's safetensors files."""
    from safetensors import safe_open

    names: set[str] = set()
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            names |= set(stored.keys())
    return names


def weights_version(folder: str | Path) -> str:
    """SHA-256 over a policy folder's safetensors files."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
