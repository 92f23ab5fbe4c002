"""What a cluster would need for a large policy within the paper's one to two days: separate pools of GPUs, on paper only.

The toolkit's `optimise_policy` has all ranks do each phase in turn. This page of arithmetic says what the layout that is
usual at this size would take: one pool trains, one samples, one holds the frozen models (reward models and reference
policy, as vLLM servers of scores and prompt log-probabilities), and sampling runs one step ahead of the update. None of
it is code here, and that replies one step old do no harm is assumed, not shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from resources.profiles import Profile
from rluf_assets.plan_costs import GIB, activation_memory, collective_seconds, compute_seconds, state_memory
from rluf_assets.plan_shapes import ROLES, policy_shape, role_shape
from rluf_assets.planning import RATIOS_BEYOND_FIRST, sampling_of, update_flops
from rluf_assets.policy.config import OptimisationConfig


@dataclass(frozen=True)
class Pools:
    """GPUs of each pool, and the seconds of one step that each is busy."""

    training: int
    sampling: int
    frozen: int
    training_s: float
    sampling_s: float
    frozen_s: float

    @property
    def step_s(self) -> float:
        """The update of one batch runs while the next is sampled and then scored."""
        return max(self.training_s, self.sampling_s + self.frozen_s)


def best_pools(profile: Profile, config: OptimisationConfig, gpus: int) -> Pools | None:
    """The split of `gpus` with the shortest step whose models fit; None where there is none."""
    return min(_pools(profile, config, gpus), key=lambda one: one.step_s, default=None)


def on_paper(profile: Profile, config: OptimisationConfig, gpus: int) -> list[str]:
    """The best layout in words, each assumption with it; empty where no split fits."""
    pools = best_pools(profile, config, gpus)
    if pools is None:
        return []
    hours = config.iterations * pools.step_s / 3600
    return [
        f"lacks for that: pools of its own for training ({pools.training} GPUs, {pools.training_s:.1f} s a step), sampling "
        f"({pools.sampling} GPUs, {pools.sampling_s:.1f} s) and frozen models ({pools.frozen} GPUs, {pools.frozen_s:.1f} s)",
        f"on paper {config.iterations} steps of {pools.step_s:.1f} s then take {hours:.0f} h: the next batch is sampled and "
        "scored, by a policy one step old, while this one is learned from; weights go from GPU to GPU. Nothing of this is "
        "code here, and that replies one step old do no harm has not been shown",
    ]


def _pools(profile: Profile, config: OptimisationConfig, gpus: int) -> Iterator[Pools]:
    plan, shape = profile.plan, policy_shape(profile)
    unit = config.vllm.tensor_parallel
    models = [role_shape(profile, role) for role in ROLES]
    reply = config.max_new_tokens * plan.reply_share
    prompts, k = config.prompts_per_iteration, config.completions_per_prompt
    asked = prompts * (1 + RATIOS_BEYOND_FIRST) * (plan.prompt_tokens + reply)
    frozen_flops = 2.0 * prompts * (plan.prompt_tokens + k * reply) * sum(one.parameters for one in models)
    frozen_flops += 2.0 * asked * shape.parameters
    hand_over = 2.0 * shape.parameters / (plan.gather_gb_s * 1e9)
    kept = activation_memory(
        shape, config.forward_tokens, width=2, checkpointing=config.gradient_checkpointing, logits=True
    )
    frozen_bytes = 2.0 * (shape.parameters + sum(one.parameters for one in models))
    for training in range(unit, gpus - unit, unit):
        states = sum(state_memory(shape, training, "zero3").values())
        if states + kept > plan.gpu.memory_gb:
            continue
        busy = compute_seconds(update_flops(shape, config, plan), training, plan) + hand_over
        busy += collective_seconds(shape, training, "zero3", plan, training=True) * config.updates_per_iteration
        for sampling in range(unit, gpus - training, unit):
            frozen = gpus - training - sampling
            if frozen_bytes / frozen / GIB > 0.8 * plan.gpu.memory_gb:
                continue
            sampled = sampling_of(shape, config, prompts, sampling, 2, plan)
            yield Pools(
                training, sampling, frozen, busy, sum(sampled.seconds.values()) + hand_over,
                compute_seconds(frozen_flops, frozen, plan),
            )  # fmt: skip
