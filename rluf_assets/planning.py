"""What would a profile's jobs need? Memory per GPU, tokens, FLOPs, seconds by what takes them, from stated formulas.

States of training: weights, gradients and Adam's moments, sharded as DeepSpeed's own estimators say where the profile's
`accelerate_config` is ZeRO. FLOPs: 6 per parameter and token for training (8 with activations recomputed), 2 for a
forward pass (Kaplan et al. 2020, arXiv 2001.08361). Decoding reads all weights for every token of the longest reply.
Each job's own dtype, checkpointing and batch sizes are read from its config. `plan_graph` lists the jobs, `plan_report`
prints them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from resources.launchers.spec import JobResources
from resources.profiles import Profile
from resources.profiles.accelerate import read_accelerate_config
from resources.profiles.plan import ModelShape, PlanSettings
from rluf_assets.plan_costs import (
    GIB,
    Sharding,
    activation_memory,
    collective_seconds,
    compute_seconds,
    decode_seconds,
    forward_memory,
    kv_cache_memory,
    state_memory,
)
from rluf_assets.plan_shapes import ROLES, checkpoint_width, policy_shape, role_shape
from rluf_assets.policy.config import EvaluationConfig, OptimisationConfig
from rluf_assets.rewards.config import RewardConfig

# A Python process with torch and Transformers loaded, on a machine without a GPU (measured: .6 to .8 GiB).
PROCESS_GIB = 0.8
# Tokens of one pass of a reward model that scores (`RewardModel.score`), and of one batch of prompts that is sampled from.
SCORING_TOKENS, SAMPLING_TOKENS = 16_384, 6_144
# Replies are asked about in descending order of reward until one passes: so many log-ratios a prompt beyond the first.
RATIOS_BEYOND_FIRST = 0.25
# Tokens of a reply where the job that samples or reads it says nothing.
REPLY_TOKENS = 64


@dataclass(frozen=True)
class Estimate:
    """One job's needs. `memory` is GiB per GPU (per process without one), by what takes it; `seconds` likewise, on GPUs.

    `passes`: how often the job passes each prompt through a model, in words.
    """

    job: str
    asset: str
    resources: JobResources
    memory: Mapping[str, float] = field(default_factory=dict)
    tokens: float = 0.0
    flops: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)
    passes: str = ""

    @property
    def gpus(self) -> int:
        return self.resources.nodes * self.resources.gpus_per_node

    @property
    def memory_total(self) -> float:
        return sum(self.memory.values())

    @property
    def hours(self) -> float:
        """Wall time on its GPUs; 0 for jobs without any."""
        return sum(self.seconds.values()) / 3600 if self.gpus else 0.0

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.gpus

    def problem(self, plan: PlanSettings) -> str | None:
        """Why it does not fit, in words; None where memory and time limit are enough."""
        limit = plan.gpu.memory_gb if self.gpus else self.resources.memory_gb
        if self.memory_total > limit:
            setting = "GiB of the GPU" if self.gpus else "memory_gb of the job"
            return f"needs {self.memory_total:.3g} GiB, the {setting}: {limit:g}"
        if self.hours * 3600 > self.resources.time_limit_s:
            return f"takes {self.hours:.3g} h, its time_limit_s: {self.resources.time_limit_s / 3600:.3g} h"
        return None


def sharding_of(profile: Profile, job: str) -> Sharding:
    """How the job's launcher spreads training states over GPUs, by its `accelerate_config`."""
    name = profile.jobs[job].launcher if job in profile.jobs else None
    chosen = (profile.launchers[name] if name else profile.launcher).accelerate_config
    settings = yaml.safe_load(read_accelerate_config(chosen)) or {}
    stage = (settings.get("deepspeed_config") or {}).get("zero_stage")
    if settings.get("distributed_type") == "FSDP" or stage == 3:
        return "zero3"
    return "zero2" if stage == 2 else "none"


def estimate_reward(asset: str, role: str, config: RewardConfig, profile: Profile, needs: JobResources) -> Estimate:
    """Training one reward model: at most `max_train_rows` rows of at most `max_length` tokens (two for a pair)."""
    plan, shape = profile.plan, role_shape(profile, role)
    gpus = max(1, needs.nodes * needs.gpus_per_node)
    sides = 1 if config.objective == "bce" else 2
    tokens = config.max_train_rows * config.max_length * sides * config.epochs
    recompute, sharding = config.gradient_checkpointing, sharding_of(profile, "train_reward")
    at_once = config.micro_batch_tokens or math.ceil(config.batch_tokens / gpus)
    kept = activation_memory(shape, at_once, width=_width(config.dtype), checkpointing=recompute, logits=False)
    flops = (8 if recompute else 6) * shape.parameters * float(tokens)
    batches = math.ceil(tokens / (at_once * gpus))
    seconds = {
        "training": compute_seconds(flops, gpus, plan),
        "gathers": batches * collective_seconds(shape, gpus, sharding, plan, training=True),
    }
    memory = {**state_memory(shape, gpus, sharding), "activations": kept}
    passes = "each row's prompt once an epoch" if config.share_prefixes else "each side's prompt once an epoch"
    return _estimate("train_reward", asset, needs, memory, tokens, flops, seconds, passes)


def estimate_base(profile: Profile, needs: JobResources) -> Estimate:
    """Training the small base policy; a checkpoint given by path is loaded and its loss on held-out replies read."""
    config, shape, plan = profile.base_policy, policy_shape(profile), profile.plan
    if config.checkpoint is not None:
        length = plan.prompt_tokens + REPLY_TOKENS
        tokens = config.heldout_conversations * length
        width = checkpoint_width(config.checkpoint)
        memory = {
            "weights": shape.parameters * width / GIB,
            "activations": forward_memory(shape, 32 * length, width=width, logits=True),
        }
        flops = 2.0 * shape.parameters * tokens
        seconds = {"held-out loss": compute_seconds(flops, 1, plan)}
        return _estimate("train_base_policy", "base_policy", needs, memory, tokens, flops, seconds, "")
    tokens = config.steps * config.batch_tokens
    kept = activation_memory(shape, config.batch_tokens, width=4, checkpointing=False, logits=True)
    flops = 6.0 * shape.parameters * tokens
    memory = {**state_memory(shape, 1), "activations": kept}
    seconds = {"training": compute_seconds(flops, 1, plan)}
    return _estimate("train_base_policy", "base_policy", needs, memory, tokens, flops, seconds, "")


@dataclass(frozen=True)
class Sampling:
    """One round of replies: tokens, FLOPs, seconds and memory of the engine that samples them."""

    tokens: float
    flops: float
    seconds: Mapping[str, float]
    cache: float


def sampling_of(
    shape: ModelShape,
    config: OptimisationConfig | EvaluationConfig,
    prompts: int,
    gpus: int,
    kept: int,
    plan: PlanSettings,
) -> Sampling:
    """`completions_per_prompt` replies to each of `prompts`: a prompt is passed once, its replies decoded side by side.

    `kept`: bytes of a value in the keys and values that TransformersEngine keeps; vLLM's have its own dtype.
    A round is over when its longest reply is, and an engine's share is a whole number of prompts: both are idle time.
    """
    split, width = config.vllm.tensor_parallel if config.engine == "vllm" else 1, sampler_width(config)
    engines = max(1, gpus // split)
    share = math.ceil(prompts / engines)
    k, longest = config.completions_per_prompt, config.max_new_tokens
    reply = longest * plan.reply_share
    values = width if config.engine == "vllm" else kept
    one_prompt = kv_cache_memory(shape, k, plan.prompt_tokens + longest, split) * values / 2
    if config.engine == "vllm":  # takes its share of the GPU whole, and has as many replies at once as fit into it
        cache = config.vllm.memory_share * plan.gpu.memory_gb - shape.parameters * width / split / GIB
        at_once = min(share, max(1, int(cache / one_prompt)))
        cache = max(cache, one_prompt)
    else:
        at_once = min(share, max(1, config.sampling_tokens // (plan.prompt_tokens + k * longest // 4)))
        cache = at_once * one_prompt
    rounds = math.ceil(share / at_once)
    tokens = prompts * (plan.prompt_tokens + k * reply)
    flops = 2.0 * shape.parameters * tokens
    decoding = max(
        rounds * decode_seconds(shape, reply, width, split, plan),
        compute_seconds(2.0 * shape.parameters * prompts * k * reply, engines * split, plan),
    )
    prefill = compute_seconds(2.0 * shape.parameters * prompts * plan.prompt_tokens, engines * split, plan)
    whole = rounds * decode_seconds(shape, longest, width, split, plan)
    uneven = (prefill + decoding) * (share * engines / prompts - 1)
    idle = max(0.0, whole - decoding) + uneven
    return Sampling(tokens, flops, {"sampling": prefill + decoding, "idle ranks": idle}, cache)


def sampler_width(config: OptimisationConfig | EvaluationConfig) -> int:
    """Bytes of a weight that is sampled with: float32 in TransformersEngine, whatever its passes; vLLM's own dtype."""
    return 2 if config.engine == "vllm" and config.vllm.dtype != "float32" else 4


def estimate_policy(candidate: str, config: OptimisationConfig, profile: Profile, needs: JobResources) -> Estimate:
    """Optimising one candidate: sample, score with every reward model, log-ratios, update; all ranks do each in turn."""
    plan, shape = profile.plan, policy_shape(profile)
    asset = f"crraft_policy[{candidate}]"
    if config.optimiser == "none":
        return Estimate("optimise_policy", asset, needs)
    gpus, sharding = max(1, needs.nodes * needs.gpus_per_node), sharding_of(profile, "optimise_policy")
    width, prompts = _width(config.dtype), config.prompts_per_iteration
    reply = config.max_new_tokens * plan.reply_share
    rewards = {role: role_shape(profile, role) for role in ROLES}
    sampled = sampling_of(shape, config, prompts, gpus, width, plan)
    # A reward model reads a prompt once for all its replies; a log-ratio and the update read it with each reply.
    scored = prompts * (plan.prompt_tokens + config.completions_per_prompt * reply)
    chosen = prompts * (plan.prompt_tokens + reply)
    asked = chosen * (1 + RATIOS_BEYOND_FIRST)
    flops = {
        "scoring": 2.0 * scored * sum(one.parameters for one in rewards.values()),
        "log-ratios": 2.0 * asked * shape.parameters,
        "update": update_flops(shape, config, plan),
    }
    gathers = collective_seconds(shape, gpus, sharding, plan, training=True) * config.updates_per_iteration
    for one, tokens, at_once in [
        *((one, scored, SCORING_TOKENS) for one in rewards.values()), (shape, asked, config.forward_tokens)
    ]:  # fmt: skip
        gathers += math.ceil(tokens / gpus / at_once) * collective_seconds(one, gpus, sharding, plan, training=False)
    seconds = {
        **sampled.seconds,
        **{name: compute_seconds(value, gpus, plan) for name, value in flops.items()},
        "gathers": gathers,
        "weight transfer": transfer_seconds(shape, config, gpus, sharding, plan),
    }
    seconds["idle ranks"] += (seconds["scoring"] + seconds["update"]) * (math.ceil(prompts / gpus) * gpus / prompts - 1)
    steps = config.iterations
    shards = gpus if sharding == "zero3" else 1
    engine = 0.0
    if config.engine == "vllm":
        engine = shape.parameters * sampler_width(config) / config.vllm.tensor_parallel / GIB
    elif shards > 1:
        engine = shape.parameters * sampler_width(config) / GIB  # a whole copy on each rank samples
    # Whole, the reference policy keeps float32 weights under bfloat16 passes; reward models are cast, and so are parts.
    reference = shape.parameters * (4 if shards == 1 else width / shards) / GIB
    scorers = sum(one.parameters for one in rewards.values()) * width / shards / GIB
    judge = role_shape(profile, "llm_judge").parameters * 4 / GIB if config.llm_judge else 0.0
    memory = {
        **state_memory(shape, gpus, sharding),
        "activations": max(
            activation_memory(
                shape, config.forward_tokens, width=width, checkpointing=config.gradient_checkpointing, logits=True
            ),
            *(forward_memory(one, SCORING_TOKENS, width=width, logits=False) for one in rewards.values()),
        ),
        "reference and rewards": reference + scorers,
        "LLM judge": judge,
        "sampling engine": engine,
        "KV cache": sampled.cache,
    }
    total = steps * (sampled.flops + sum(flops.values()))
    passes = (
        f"each prompt of a step: once by the sampler, once by each of {len(rewards)} reward models for its "
        f"{config.completions_per_prompt} replies, {1 + RATIOS_BEYOND_FIRST:g} times by the reference policy, "
        "once by the update"
    )
    tokens_all = steps * (sampled.tokens + len(rewards) * scored + asked + chosen)
    return _estimate(
        "optimise_policy", asset, needs, memory, tokens_all, total, {k: steps * v for k, v in seconds.items()}, passes
    )


def update_flops(shape: ModelShape, config: OptimisationConfig, plan: PlanSettings) -> float:
    """FLOPs of one step's update: one reply a prompt, forward and backward."""
    tokens = config.prompts_per_iteration * (plan.prompt_tokens + config.max_new_tokens * plan.reply_share)
    return (8.0 if config.gradient_checkpointing else 6.0) * tokens * shape.parameters


def transfer_seconds(
    shape: ModelShape, config: OptimisationConfig, gpus: int, sharding: Sharding, plan: PlanSettings
) -> float:
    """Seconds of one step until the sampler holds the new policy.

    In memory: nothing but the gather of weights that are sharded, and for vLLM the copy of its own. One process with vLLM
    over several GPUs: written to a folder on the shared disk and read again.
    """
    size = 2.0 * shape.parameters
    if config.engine == "vllm" and gpus == 1 and config.vllm.tensor_parallel > 1:
        return 2 * size / (plan.disk_gb_s * 1e9)
    copy = size / config.vllm.tensor_parallel / (plan.gpu.memory_gb_s * 1e9) if config.engine == "vllm" else 0.0
    # float32 values are gathered from the optimiser's parts
    gather = 4.0 * shape.parameters / (plan.gather_gb_s * 1e9) if sharding != "none" and gpus > 1 else 0.0
    return gather + copy


def estimate_evaluation(candidate: str, profile: Profile, needs: JobResources) -> Estimate:
    """Sampling a candidate's replies to the evaluation prompts, and scoring them with every reward model."""
    plan, shape, config = profile.plan, policy_shape(profile), profile.offline_evaluation
    gpus, sharding = max(1, needs.nodes * needs.gpus_per_node), sharding_of(profile, "evaluate_candidate")
    prompts = config.max_prompts or profile.evaluation_prompts.evaluation_prompts
    width = _width(config.dtype)
    rewards = [role_shape(profile, role) for role in ROLES]
    sampled = sampling_of(shape, config, prompts, gpus, 4, plan)  # the policy answers in float32
    scored = prompts * (plan.prompt_tokens + config.completions_per_prompt * config.max_new_tokens * plan.reply_share)
    scoring = 2.0 * scored * sum(one.parameters for one in rewards)
    shards = gpus if sharding == "zero3" else 1
    split = config.vllm.tensor_parallel if config.engine == "vllm" else 1
    memory = {
        "weights": (
            shape.parameters / split * sampler_width(config) + sum(one.parameters for one in rewards) / shards * width
        )
        / GIB,
        "KV cache": sampled.cache,
        "activations": max(forward_memory(one, SCORING_TOKENS, width=width, logits=False) for one in rewards),
    }
    batches = math.ceil(scored / gpus / SCORING_TOKENS)
    gathers = sum(batches * collective_seconds(one, gpus, sharding, plan, training=False) for one in rewards)
    seconds = {**sampled.seconds, "scoring": compute_seconds(scoring, gpus, plan), "gathers": gathers}
    passes = f"each prompt once by the sampler, once by each of {len(rewards)} reward models for its replies"
    return _estimate(
        "evaluate_candidate", f"offline_evaluation[{candidate}]", needs, memory, sampled.tokens + len(rewards) * scored,
        sampled.flops + scoring, seconds, passes,
    )  # fmt: skip


def estimate_exposures(candidate: str, profile: Profile, needs: JobResources) -> Estimate:
    """A simulated A/B arm: the candidate answers in the job itself, in float32."""
    plan, shape = profile.plan, policy_shape(profile)
    at_once, length = math.ceil(SAMPLING_TOKENS / plan.prompt_tokens), plan.prompt_tokens + REPLY_TOKENS
    memory = {
        "weights": shape.parameters * 4 / GIB,
        "KV cache": 2 * kv_cache_memory(shape, at_once, length, 1),  # of four bytes each
        "activations": forward_memory(shape, SAMPLING_TOKENS, width=4, logits=False),
    }
    return _estimate("play_ab_test", f"ab_exposures[{candidate}]", needs, memory, 0.0, 0.0, {}, "")


def estimate_backtest(profile: Profile, needs: JobResources) -> Estimate:
    """P[signal] reads the replies of past policies, in float32."""
    shape, tokens = role_shape(profile, ROLES[0]), profile.offline_online_backtest.batch_tokens
    memory = {
        "weights": shape.parameters * 4 / GIB,
        "activations": forward_memory(shape, tokens, width=4, logits=False),
    }
    return _estimate("offline_online_backtest", "offline_online_backtest", needs, memory, 0.0, 0.0, {}, "")


def estimate_off_policy(profile: Profile, needs: JobResources) -> Estimate:
    """Candidates, one after another, read logged replies in float32; none is loaded where no log-probability is logged."""
    shape, tokens = policy_shape(profile), profile.off_policy_evaluation.batch_tokens
    memory = {
        "weights": shape.parameters * 4 / GIB,
        "activations": forward_memory(shape, tokens, width=4, logits=True),
    }
    return _estimate("off_policy_evaluation", "off_policy_evaluation", needs, memory, 0.0, 0.0, {}, "")


def assumptions(profile: Profile) -> list[str]:
    """What the estimates rest on, in words."""
    plan = profile.plan
    shapes = {"policy": policy_shape(profile), **{role: role_shape(profile, role) for role in ROLES}}
    return [
        *[f"{role}: {shape.parameters / 1e6:,.4g} million parameters" for role, shape in shapes.items()],
        "shapes and dtypes of models given by path are read in their folders; of those that are not on this machine "
        "plan.models says the shape, and the dtype counts as float32",
        f"GPU: {plan.gpu.name}, {plan.gpu.memory_gb:g} GiB, {plan.gpu.tflops:g} TFLOP/s dense bf16, "
        f"{plan.gpu.memory_gb_s:g} GB/s from its memory",
        f"arithmetic reaches {plan.mfu:.0%} of the peak; decoding {plan.bandwidth_share:.0%} of the memory's rate",
        f"a prompt has {plan.prompt_tokens} tokens, a reply {plan.reply_share:.0%} of max_new_tokens on average; a round of "
        "sampling ends with its longest reply, of max_new_tokens",
        f"GPUs exchange {plan.gather_gb_s:g} GB/s each, none of it hidden behind arithmetic; the shared disk gives and takes "
        f"{plan.disk_gb_s:g} GB/s, all nodes together",
        "training states: 16 bytes a parameter unsharded, 2 + 18 / GPUs with ZeRO-2, 18 / GPUs and the largest layer "
        "whole with ZeRO-3",
        "models are sharded as the job's launcher's accelerate_config says: reference policy and reward models with ZeRO-3 "
        "alone; a sampling engine over several GPUs is vLLM's",
        f"a process without a GPU takes {PROCESS_GIB:g} GiB before it loads a model",
    ]


def _estimate(
    job: str, asset: str, needs: JobResources, memory: Mapping[str, float], tokens: float, flops: float,
    seconds: Mapping[str, float], passes: str,
) -> Estimate:  # fmt: skip
    """The estimate; without a GPU a process's own memory counts, and time is not estimated."""
    if needs.gpus_per_node:
        return Estimate(job, asset, needs, memory, tokens, flops, seconds, passes)
    return Estimate(job, asset, needs, {**memory, "process": PROCESS_GIB}, tokens, flops, {}, passes)


def _width(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else 4
