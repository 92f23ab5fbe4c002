"""What would a profile's jobs need? Memory per GPU, tokens, FLOPs and GPU-hours, each from a stated formula.

States of training: weights, gradients and Adam's moments in float32 (16 bytes a parameter); over several GPUs sharded
as DeepSpeed's ZeRO-3 estimator says (18 bytes / GPUs, and the largest layer whole). FLOPs: 6 per parameter and token
for training (8 with activations recomputed), 2 for a forward pass (Kaplan et al. 2020, arXiv 2001.08361).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from resources.launchers.spec import JobResources
from resources.profiles import Profile
from resources.profiles.plan import ModelShape, PlanSettings
from rluf_assets.policy.config import BasePolicyConfig, OptimisationConfig
from rluf_assets.rewards.config import RewardConfig

GIB = 2**30
REWARDS = ("p_love", "helpfulness", "safety")


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
        intermediate_size=config.intermediate_size or int(config.hidden_size * 8 / 3),
        layers=config.layers,
        heads=heads,
        kv_heads=heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        tied=True,
    )


def state_memory(shape: ModelShape, gpus: int) -> dict[str, float]:
    """GiB per GPU of weights, gradients and optimiser while training, mixed precision over several GPUs."""
    if gpus <= 1:
        share = shape.parameters * 4 / GIB
        return {"weights": share, "gradients": share, "optimiser": 2 * share}
    largest = 4 * max(shape.layer_parameters, shape.embedding_parameters)
    return {
        "weights": (6 * shape.parameters / gpus + largest) / GIB,
        "gradients": 4 * shape.parameters / gpus / GIB,
        "optimiser": 8 * shape.parameters / gpus / GIB,
    }


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
    return Estimate(
        "train_reward", asset, needs, {**state_memory(shape, gpus), "activations": kept}, tokens, flops,
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
    rewards = sum(plan.models.get(role, shape).parameters for role in REWARDS)
    sampled = config.prompts_per_iteration * plan.prompt_tokens + replies * reply
    sampling = 2.0 * shape.parameters * sampled
    scoring = 2.0 * replies * length * (rewards + 2 * shape.parameters)
    update = (8.0 if plan.gradient_checkpointing else 6.0) * shape.parameters * config.prompts_per_iteration * length
    steps = config.iterations
    hours = _gpu_hours(steps * sampling, plan.mfu_sampling, profile)
    hours += _gpu_hours(steps * (scoring + update), plan.mfu_training, profile)
    copies = max(1, gpus // plan.tensor_parallel)
    width = 2 if needs.gpus_per_node else 4
    memory = {
        **state_memory(shape, gpus),
        "activations": activation_memory(
            shape, min(config.forward_tokens, plan.micro_batch_tokens), width=width,
            checkpointing=plan.gradient_checkpointing, logits=True,
        ),
        "reference and rewards": (shape.parameters + rewards) * width / gpus / GIB,
        "sampling engine": shape.parameters * width / plan.tensor_parallel / GIB if gpus > 1 else 0.0,
        "KV cache": kv_cache_memory(
            shape, replies / copies, plan.prompt_tokens + config.max_new_tokens, plan.tensor_parallel
        ),
    }  # fmt: skip
    tokens = float(steps * (sampled + replies * length))
    total = steps * (sampling + scoring + update)
    return Estimate("optimise_policy", asset, needs, memory, tokens, total, hours if needs.gpus_per_node else 0.0)


def estimates(profile: Profile, candidates: Mapping[str, OptimisationConfig]) -> Iterator[Estimate]:
    """Every job that computes with a model, in the order of the graph."""

    def needs(job: str) -> JobResources:
        return profile.jobs[job].resources(JobResources()) if job in profile.jobs else JobResources()

    yield estimate_base(profile, needs("train_base_policy"))
    for asset, role in zip(("p_love", "helpfulness_reward", "safety_reward"), REWARDS, strict=True):
        yield estimate_reward(asset, role, getattr(profile, asset), profile, needs("train_reward"))
    for name, config in candidates.items():
        yield estimate_policy(name, config, profile, needs("optimise_policy"))


def assumptions(profile: Profile) -> list[str]:
    """What the estimates rest on, in words."""
    plan = profile.plan
    shapes = {
        "policy": policy_shape(profile),
        **{role: plan.models.get(role, policy_shape(profile)) for role in REWARDS},
    }
    return [
        *[f"{role}: {shape.parameters / 1e9:.3g} billion parameters" for role, shape in shapes.items()],
        f"GPU: {plan.gpu.name}, {plan.gpu.memory_gb:g} GiB, {plan.gpu.tflops:g} TFLOP/s dense bf16",
        f"MFU: {plan.mfu_training:.0%} in training and scoring, {plan.mfu_sampling:.0%} in sampling",
        f"a prompt has {plan.prompt_tokens} tokens, a reply {plan.reply_share:.0%} of max_new_tokens",
        f"a sampling engine's weights are split over {plan.tensor_parallel} GPU(s); "
        f"{plan.micro_batch_tokens} tokens at once per GPU; "
        f"activations are {'recomputed' if plan.gradient_checkpointing else 'kept'}",
        "training states: 16 bytes a parameter on one GPU, 18 / GPUs and the largest layer whole on several (ZeRO-3)",
    ]


def _gpu_hours(flops: float, mfu: float, profile: Profile) -> float:
    return flops / (profile.plan.gpu.tflops * 1e12 * mfu) / 3600
