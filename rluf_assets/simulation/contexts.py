"""Contexts from natural traffic of the simulated production: where a policy's reply is wanted, with the history.

contexts = draw_contexts(LiveTestConfig(arm="moderate"), seed=0, stream=LIVE_STREAM)  # CONTEXT_SCHEMA
"""

from __future__ import annotations

import numpy as np
import polars as pl

from rluf_assets.chat import Message, keep_last_turns
from rluf_assets.simulation import users
from rluf_assets.simulation.config import LiveTestConfig
from rluf_assets.simulation.grammar import HARMFUL_INDEX, SOUNDS_HARMFUL_INDEX, Ints, render, render_requests
from rluf_assets.simulation.policies import LOGGING_NEXT
from rluf_assets.simulation.topics import SHARES, USE_CASES
from rluf_assets.simulation.traffic import Turns, converse

CTX_TURNS = 10
_MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
CONTEXT_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "context_id": pl.String, "prompt": _MESSAGES, "use_case": pl.String, "turn_index": pl.Int32, "weight": pl.Float64,
}  # fmt: skip


def natural_turns(conversations: int, rng: np.random.Generator, salt: str) -> Turns:
    """Turns of conversations of new users with the logging policy, use cases in their natural shares."""
    population = users.draw_users(conversations, -1, rng, salt)
    use_case = rng.choice(len(USE_CASES), conversations, p=np.array(SHARES) / sum(SHARES))
    return converse(LOGGING_NEXT, population, np.arange(conversations), use_case, rng)


def draw_contexts(config: LiveTestConfig, seed: int, stream: int) -> pl.DataFrame:
    """`config.contexts` contexts (CONTEXT_SCHEMA), the same for every candidate: they depend on seed and config only.

    Harmful and harmful-sounding requests are sampled more often than they occur; `weight` (mean 1) undoes it.
    """
    rng = np.random.default_rng([stream, seed])
    turns = natural_turns(max(12 * config.contexts, 2_000), rng, f"context/{seed}")
    use_case = turns.attributes.use_case
    strata = [use_case == HARMFUL_INDEX, use_case == SOUNDS_HARMFUL_INDEX]
    strata.append(~strata[0] & ~strata[1])
    wanted = [round(config.contexts * share) for share in (config.harmful_share, config.sounds_harmful_share)]
    wanted.append(config.contexts - sum(wanted))
    rows, weights = [], []
    for members, count in zip(strata, wanted, strict=True):
        rows.append(rng.choice(np.flatnonzero(members), count, replace=False))
        weights.append(np.full(count, members.mean() * config.contexts / max(count, 1)))
    picked = np.concatenate(rows)
    return pl.DataFrame(
        {
            "context_id": [f"x{number:06d}" for number in range(len(picked))],
            "prompt": _prompts(turns, picked),
            "use_case": [USE_CASES[index] for index in use_case[picked]],
            "turn_index": turns.turn[picked],
            "weight": np.concatenate(weights),
        },
        schema=CONTEXT_SCHEMA,
    )


def _prompts(turns: Turns, picked: Ints) -> list[list[Message]]:
    """History and request of the picked turns."""
    where = {(c, t): row for row, (c, t) in enumerate(zip(turns.conversation, turns.turn, strict=True))}
    requests = render_requests(turns.replies.topic, turns.template, turns.follow_up, turns.request_tail)
    replies = render(turns.replies)
    prompts = []
    for row in picked:
        conversation, last = turns.conversation[row], turns.turn[row]
        prompt = []
        for turn in range(last + 1):
            at = where[conversation, turn]
            prompt.append(Message(role="user", content=requests[at]))
            if turn < last:
                prompt.append(Message(role="assistant", content=replies[at]))
        prompts.append(keep_last_turns(prompt, CTX_TURNS))
    return prompts
