"""Cutting contexts at whole turns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rluf_assets.chat import Message, drop_oldest_turn, fit_prompt, keep_last_turns


def chat(turns: int, system: bool = False) -> list[Message]:
    """A prompt of `turns` user messages with replies between them."""
    messages: list[Message] = [{"role": "system", "content": "s"}] if system else []
    for turn in range(turns):
        messages += [{"role": "user", "content": f"u{turn}"}, {"role": "assistant", "content": f"a{turn}"}]
    return messages[:-1]


@given(st.integers(1, 15), st.integers(1, 12), st.booleans())
def test_kept_turns_are_the_last_ones_and_whole(turns: int, ctx_turns: int, system: bool) -> None:
    kept = keep_last_turns(chat(turns, system), ctx_turns)
    users = [m["content"] for m in kept if m["role"] == "user"]
    assert users == [f"u{i}" for i in range(max(0, turns - ctx_turns), turns)]
    assert kept[-1]["role"] == "user"
    assert (kept[0]["role"] == "system") == system
    assert kept[int(system)]["role"] == "user"


def test_single_turn_cannot_be_cut() -> None:
    assert drop_oldest_turn(chat(1)) == chat(1)
    prompt, dropped = fit_prompt(chat(1), lambda _: False)
    assert (prompt, dropped) == (chat(1), 0)


def test_fit_prompt_counts_what_it_drops() -> None:
    prompt, dropped = fit_prompt(chat(5), lambda messages: len(messages) <= 4)
    assert (len(prompt), dropped) == (3, 3)


TURNS = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2)), min_size=1, max_size=6)


@given(TURNS, st.integers(1, 7), st.booleans(), st.booleans())
def test_messages_in_a_row_are_cut_together(
    sizes: list[tuple[int, int]], ctx_turns: int, greeted: bool, in_parts: bool
) -> None:
    """Some user messages, then a reply in parts: no turn is cut within, and the cut ends where one turn is left."""
    turns: list[list[Message]] = [
        [*({"role": "user", "content": f"u{n}.{i}"} for i in range(users)),
         *({"role": "assistant", "content": f"a{n}.{i}"} for i in range(parts))]
        for n, (users, parts) in enumerate(sizes)
    ]  # fmt: skip
    turns[-1] = turns[-1][: sizes[-1][0] + in_parts]  # what is asked, or the reply's first part too
    greeting: list[Message] = [{"role": "assistant", "content": "hello"}] if greeted else []
    prompt = [*greeting, *(message for turn in turns for message in turn)]
    left = [message for turn in turns[-ctx_turns:] for message in turn]
    assert keep_last_turns(prompt, ctx_turns) == ([*greeting, *left] if ctx_turns >= len(turns) else left)
    shortest, dropped = fit_prompt(prompt, lambda _: False)
    assert dropped == len(turns) - 1 and shortest == (turns[-1] if dropped else prompt)
