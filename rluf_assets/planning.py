"""What would a profile's jobs need? Memory per GPU, tokens, FLOPs and GPU-hours, each from a stated formula.

States of training: weights, gradients and Adam's moments, sharded as DeepSpeed's own estimators say where the profile's
`accelerate_config` is ZeRO. FLOPs: 6 per parameter and token for training (8 with activations recomputed), 2 for a
forward pass (Kaplan et al. 2020, arXiv 2001.08361). `plan_graph` lists the jobs, `plan_report` prints them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import yaml

from resources.launchers.spec import JobResources
from resources.profiles import Profile
from resources.profiles.accelerate import read_accelerate_config
from resources.profiles.plan import ModelShape, PlanSettings
from rluf_assets.policy.config import BasePolicyConfig, OptimisationConfig
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.workbench import REWARDS

GIB = 2**30
ROLES = tuple(objective if objective != "love" else "p_love" for objective in REWARDS)
Sharding = Literal["none", "zero2", "zero3"]


@dataclass(frozen=True)
class Estimate:
    """One job's needs. `memory` is GiB per GPU (per process without one), by what takes it."""

    job: str
    asset: str
    resources: JobResources
    memory: Mapping[str, float] = field(default_factory=dict)
    tokens: float = 0.0
    flops: float = 0.0
    gpu_hours: float = 0.0

    @property
    def gpus(self) -> int:
        return self.resources.nodes * self.resources.gpus_per_node

    @property
    def memory_total(self) -> float:
        return sum(self.memory.values())

    @property
    def hours(self) -> float:
        """Wall time on its GPUs; 0 for jobs without any."""
        return self.gpu_hours / self.gpus if self.gpus else 0.0

    def fits(self, plan: PlanSettings) -> bool:
        """Whether the memory is there, and the time limit long enough."""
        limit = plan.gpu.memory_gb if self.gpus else self.resources.memory_gb
        return self.memory_total <= limit and self.hours * 3600 <= self.resources.time_limit_s


def policy_shape(profile: Profile) -> ModelShape:
    """The policy: as the plan says, else the small one that the base-policy job trains."""
    if "policy" in profile.plan.models:
        return profile.plan.models["policy"]
    return trained_shape(profile.base_policy)


def trained_shape(config: BasePolicyConfig) -> ModelShape:
    """The shape of the base policy trained on the logs."""
    heads = config.hidden_size // config.head_dim
    return ModelShape(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size or 8 * config.hidden_size // 3 // 16 * 16,
        layers=config.layers,
        heads=heads,
        kv_heads=heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        tied=True,
    )


def sharding_of(profile: Profile, job: str) -> Sharding:
    """How the job's launcher spreads training states over GPUs, by its `accelerate_config`."""
    name = profile.jobs[job].launcher if job in profile.jobs else None
    chosen = (profile.launchers[name] if name else profile.launcher).accelerate_config
    settings = yaml.safe_load(read_accelerate_config(chosen)) or {}
    stage = (settings.get("deepspeed_config") or {}).get("zero_stage")
    if settings.get("distributed_type") == "FSDP" or stage == 3:
        return "zero3"
    return "zero2" if stage == 2 else "none"


def state_memory(shape: ModelShape, gpus: int, sharding: Sharding = "none") -> dict[str, float]:
    """GiB per GPU of weights, gradients and optimiser while training.

    Unsharded: float32 weights, gradients and Adam's two moments, over several GPUs DDP's buckets. ZeRO-2 and ZeRO-3 as
    DeepSpeed's `estimate_zero2_model_states_mem_needs` and `estimate_zero3_...` say, nothing offloaded (FSDP likewise).
    """
    whole, part = shape.parameters / GIB, shape.parameters / gpus / GIB
    if sharding == "none" or gpus == 1:
        return {"weights": 4 * whole, "gradients": (4 if gpus == 1 else 8) * whole, "optimiser": 8 * whole}
    if sharding == "zero2":
        return {"weights": 2 * whole + 4 * part, "gradients": 6 * part, "optimiser": 8 * part}
    largest = 4 * max(shape.layer_parameters, shape.embedding_parameters) / GIB
    return {"weights": 6 * part + largest, "gradients": 4 * part, "optimiser": 8 * part}


def activation_memory(shape: ModelShape, tokens: int, *, width: int, checkpointing: bool, logits: bool) -> float:
    """GiB of what a backward pass needs kept for `tokens` at once; `width` is the bytes of one value.

    Per token and layer: six vectors of hidden size (two norms), queries and attention output, keys and values, four
    vectors of the MLP's width. Recomputing keeps one vector per layer and one whole layer. Attention itself keeps
    nothing (flash or SDPA). Logits of a language model: the values, their log-softmax and its gradient in float32.
    """
    heads = 2 * shape.head_dim * (shape.heads + shape.kv_heads)
    layer = 6 * shape.hidden_size + heads + 4 * shape.intermediate_size
    kept = shape.layers * shape.hidden_size + layer if checkpointing else shape.layers * layer
    return tokens * (kept * width + (12 * shape.vocab_size if logits else 0)) / GIB


def kv_cache_memory(shape: ModelShape, sequences: float, length: int, tensor_parallel: int) -> float:
    """GiB per GPU of keys and values of `sequences` at once, in two bytes each."""
    per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * 2
    return sequences * length * per_token / tensor_parallel / GIB


def estimate_reward(asset: str, role: str, config: RewardConfig, profile: Profile, needs: JobResources) -> Estimate:
    """Training one reward model: at most `max_train_rows` rows of at most `max_length` tokens (two for a pair)."""
    plan, shape = profile.plan, profile.plan.models.get(role, policy_shape(profile))
    gpus = max(1, needs.nodes * needs.gpus_per_node)
    sides = 1 if config.objective == "bce" else 2
    tokens = config.max_train_rows * config.max_length * sides * config.epochs
    recompute = config.gradient_checkpointing or plan.gradient_checkpointing
    at_once = min(config.micro_batch_tokens or config.batch_tokens // gpus, plan.micro_batch_tokens)
    width = 2 if config.dtype == "bfloat16" else 4
    kept = activation_memory(shape, at_once, width=width, checkpointing=recompute, logits=False)
    flops = (8 if recompute else 6) * shape.parameters * float(tokens)
    states = state_memory(shape, gpus, sharding_of(profile, "train_reward"))
    return Estimate(
        "train_reward", asset, needs, {**states, "activations": kept}, tokens, flops,
        _gpu_hours(flops, plan.mfu_training, profile) if needs.gpus_per_node else 0.0,
    )  # fmt: skip


def estimate_base(profile: Profile, needs: JobResources) -> Estimate:
    """Training the small base policy; a checkpoint given by path is only copied."""
    config, shape = profile.base_policy, policy_shape(profile)
    if config.checkpoint is not None:
        return Estimate("train_base_policy", "base_policy", needs)
    tokens = config.steps * config.batch_tokens
    kept = activation_memory(shape, config.batch_tokens, width=4, checkpointing=False, logits=True)
    flops = 6.0 * shape.parameters * tokens
    memory = {**state_memory(shape, 1), "activations": kept}
    hours = _gpu_hours(flops, profile.plan.mfu_training, profile) if needs.gpus_per_node else 0.0
    return Estimate("train_base_policy", "base_policy", needs, memory, tokens, flops, hours)


def estimate_policy(candidate: str, config: OptimisationConfig, profile: Profile, needs: JobResources) -> Estimate:
    """Optimising one candidate: sample, score with every reward model, two log-probability passes, update."""
    plan, shape = profile.plan, policy_shape(profile)
    asset = f"crraft_policy[{candidate}]"
    if config.optimiser == "none":
        return Estimate("optimise_policy", asset, needs)
    gpus = max(1, needs.nodes * needs.gpus_per_node)
    reply = int(config.max_new_tokens * plan.reply_share)
    length = plan.prompt_tokens + reply
    replies = config.prompts_per_iteration * config.completions_per_prompt
    rewards = sum(plan.models.get(role, shape).parameters for role in ROLES)
    sampled = config.prompts_per_iteration * plan.prompt_tokens + replies * reply
    sampling = 2.0 * shape.parameters * sampled
    scoring = 2.0 * replies * length * (rewards + 2 * shape.parameters)
    update = (8.0 if plan.gradient_checkpointing else 6.0) * shape.parameters * config.prompts_per_iteration * length
    steps = config.iterations
    hours = _gpu_hours(steps * sampling, plan.mfu_sampling, profile)
    hours += _gpu_hours(steps * (scoring + update), plan.mfu_training, profile)
    copies = max(1, gpus // plan.tensor_parallel)
    sharding = sharding_of(profile, "optimise_policy")
    shards = gpus if sharding == "zero3" else 1
    width = 2 if needs.gpus_per_node else 4
    memory = {
        **state_memory(shape, gpus, sharding),
        "activations": activation_memory(
            shape, min(config.forward_tokens, plan.micro_batch_tokens), width=width,
            checkpointing=plan.gradient_checkpointing, logits=True,
        ),
        "reference and rewards": (shape.parameters + rewards) * width / shards / GIB,
        "sampling engine": shape.parameters * width / plan.tensor_parallel / GIB if gpus > 1 else 0.0,
        "KV cache": kv_cache_memory(
            shape, replies / copies, plan.prompt_tokens + config.max_new_tokens, plan.tensor_parallel
        ),
    }  # fmt: skip
    tokens = float(steps * (sampled + replies * length))
    total = steps * (sampling + scoring + update)
    return Estimate("optimise_policy", asset, needs, memory, tokens, total, hours if needs.gpus_per_node else 0.0)


def estimate_evaluation(candidate: str, profile: Profile, needs: JobResources) -> Estimate:
    """Sampling a candidate's replies to the evaluation prompts, and scoring them with every reward model."""
    plan, shape, config = profile.plan, policy_shape(profile), profile.offline_evaluation
    gpus = max(1, needs.nodes * needs.gpus_per_node)
    prompts = config.max_prompts or profile.evaluation_prompts.evaluation_prompts
    reply = int(config.max_new_tokens * plan.reply_share)
    replies = prompts * config.completions_per_prompt
    rewards = sum(plan.models.get(role, shape).parameters for role in ROLES)
    sampled = prompts * plan.prompt_tokens + replies * reply
    scored = replies * (plan.prompt_tokens + reply)
    sampling, scoring = 2.0 * shape.parameters * sampled, 2.0 * rewards * scored
    hours = _gpu_hours(sampling, plan.mfu_sampling, profile) + _gpu_hours(scoring, plan.mfu_training, profile)
    width = 2 if needs.gpus_per_node else 4
    shards = gpus if sharding_of(profile, "evaluate_candidate") == "zero3" else 1
    at_once = min(replies, config.completions_per_prompt * max(1, config.sampling_tokens // plan.prompt_tokens))
    memory = {
        "weights": (shape.parameters / plan.tensor_parallel + rewards / shards) * width / GIB,
        "KV cache": kv_cache_memory(shape, at_once, plan.prompt_tokens + config.max_new_tokens, plan.tensor_parallel),
    }
    asset = f"offline_evaluation[{candidate}]"
    total = hours if needs.gpus_per_node else 0.0
    return Estimate("evaluate_candidate", asset, needs, memory, sampled + scored, sampling + scoring, total)


def assumptions(profile: Profile) -> list[str]:
    """What the estimates rest on, in words."""
    plan = profile.plan
    shapes = {
        "policy": policy_shape(profile),
        **{role: plan.models.get(role, policy_shape(profile)) for role in ROLES},
    }
    return [
        *[f"{role}: {shape.parameters / 1e9:.3g} billion parameters" for role, shape in shapes.items()],
        f"GPU: {plan.gpu.name}, {plan.gpu.memory_gb:g} GiB, {plan.gpu.tflops:g} TFLOP/s dense bf16",
        f"MFU: {plan.mfu_training:.0%} in training and scoring, {plan.mfu_sampling:.0%} in sampling",
        f"a prompt has {plan.prompt_tokens} tokens, a reply {plan.reply_share:.0%} of max_new_tokens",
        f"a sampling engine's weights are split over {plan.tensor_parallel} GPU(s); "
        f"{plan.micro_batch_tokens} tokens at once per GPU; "
        f"activations are {'recomputed' if plan.gradient_checkpointing else 'kept'}",
        "training states: 16 bytes a parameter unsharded, 2 + 18 / GPUs with ZeRO-2, 18 / GPUs and the largest layer "
        "whole with ZeRO-3",
        "models are sharded as the job's launcher's accelerate_config says: reference policy and reward models with ZeRO-3 "
        "alone; a sampling engine over several GPUs is vLLM's",
    ]


def _gpu_hours(flops: float, mfu: float, profile: Profile) -> float:
    return flops / (profile.plan.gpu.tflops * 1e12 * mfu) / 3600
