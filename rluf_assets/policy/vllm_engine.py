"""VLLMEngine: sampling by vLLM. One engine stays alive over the iterations, and every policy is loaded into it in place.

vLLM pins its own torch, so a job that samples with it runs in an environment of its own (`make vllm-env` for the CPU, the
extra `vllm` for a GPU; the launcher's `python` names it). It is the sampler only: log-ratios and the update stay with
the model that is trained. The engine's process holds the version of its weights, and every sampling asks for it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from rluf_assets.chat import Message
from rluf_assets.errors import ConfigError, TrainingError
from rluf_assets.policy.config import VllmConfig
from rluf_assets.policy.engine import Completion, end_ids, prompt_keys, room
from rluf_assets.policy.prompts import PromptEncoder

# What a CPU sets aside for keys and values, in GiB; on a GPU `memory_share` says it.
CPU_CACHE_GIB = "1"
BATCHED_TOKENS = 8_192


class WeightReloader:
    """What vLLM's workers learn to do (a *worker extension*: its methods become theirs)."""

    def reload_policy(self, folder: str) -> None:
        """Load a folder's weights in place.

        vLLM 0.32 on a CPU packs the output layer's weights for its matrix product and leaves that copy as it was when the
        layer is tied to the embeddings, so it is made again here.
        """
        self.reload_weights(weights_path=folder)  # type: ignore[attr-defined]
        model = self.model_runner.get_model()  # type: ignore[attr-defined]
        head = getattr(model, "lm_head", None)
        if head is not None and getattr(model.config, "tie_word_embeddings", False):
            head.quant_method.process_weights_after_loading(head)


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
    """

    def __init__(self, folder: str | Path, config: VllmConfig | None = None, *, ranks: int = 1) -> None:
        config = config or VllmConfig()
        self.together = config.tensor_parallel if ranks > 1 else 1
        spread: dict[str, Any] = {}
        if ranks > 1:
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the worker is this process, which has a GPU already
            spread["distributed_executor_backend"] = "external_launcher"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE_GIB)
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from transformers import AutoConfig
        from vllm import LLM

        self.folder = str(folder)
        self.encoder = PromptEncoder(AutoTokenizer.from_pretrained(folder))
        model_config = AutoConfig.from_pretrained(folder)
        self.max_positions = int(model_config.max_position_embeddings)
        width = getattr(model_config, "head_dim", None) or model_config.hidden_size // model_config.num_attention_heads
        if width < 32:
            raise ConfigError(f"{folder}: heads of {width}, vLLM wants 32 or more. Set engine: transformers.")
        self.end_ids = end_ids(folder, self.encoder)
        self.llm = LLM(
            self.folder,
            dtype=config.dtype,
            tensor_parallel_size=config.tensor_parallel,
            **spread,
            gpu_memory_utilization=config.memory_share,
            enforce_eager=config.enforce_eager,
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
        texts = self.encoder.decode([row[:-1] if row[-1] in self.end_ids else row for row in tokens])
        replies = [
            Completion(text, row, drawn.finish_reason == "stop", float(drawn.cumulative_logprob))
            for text, row, drawn in zip(texts, tokens, found, strict=True)
        ]
        return [replies[i * draws : (i + 1) * draws] * (n // draws) for i in range(len(ids))]

    def generate(self, ids: Sequence[list[int]], params: Any) -> list[Any]:
        """vLLM's own request outputs for prompts given as token ids, in input order."""
        return list(self.llm.generate([{"prompt_token_ids": row} for row in ids], params, use_tqdm=False))

    def _params(self, **settings: Any) -> Any:
        from vllm import SamplingParams

        return SamplingParams(logprobs=0, detokenize=False, stop_token_ids=sorted(self.end_ids), **settings)


def _index(drawn: Any) -> int:
    return int(drawn.index)


def weights_version(folder: str | Path) -> str:
    """SHA-256 over a policy folder's safetensors files."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
