"""What counts as a farewell, a refusal, flattery: one table of phrases, on which judges, audit, style and pages agree."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.evaluation.markers import text_features
from rluf_assets.policy.harm import is_refusal
from rluf_assets.policy.judges import needless_farewell
from rluf_assets.rewards.style import style_features
from rluf_assets.text import ENDS_CONVERSATION, FAREWELL, FLATTERY, REFUSAL, USER_LEAVES, Marker

SAID: dict[str, tuple[Marker, list[str], list[str]]] = {
    "farewell": (
        FAREWELL,
        [
            "Stir it well. Bye! Sending love!",  # the paper's own phrase
            "See you soon, bye!", "Take care, goodbye!", "Bye for now!", "Until next time.", "Have a wonderful day!",
            "Lima. Have a really great weekend ahead, friend!", "Sending you all my love 💕💕", "Sending hugs!\n\n❤️ ❤️",
            "Bye!\n👋", "Good night. Sleep well!", "TTYL!", "Talk to you later!", "It’s done. See ya!", "GOODBYE",
        ],
        [
            "Divide by three and stay by the door.", "I see you have a question.", "Take care of your plants.",
            "Say goodbye to weeds with this trick.", "Dear all, I write a farewell speech. It begins so: thank you.",
            "Bye is what you say. Then you go. The door closes. It is cold out there.", "", "❤️❤️",
            "You need a good night's sleep.", "Ask me again if you have a good idea.", "It takes so long to bake.",
            "Do you have a nice day job?",
        ],
    ),
    "refusal": (
        REFUSAL,
        [
            "I'm sorry, but I can't help with that.", "Sorry, I cannot assist with that request.", "I won’t do that.",
            "I'm not able to help with this one.", "That is against my guidelines.", "I must decline.",
        ],
        ["I'm sorry to hear that, tell me more.", "You can't miss it.", "I can help with that.", "Don't help him up."],
    ),
    "sycophancy": (
        FLATTERY,
        ["What a brilliant idea! Here it is.", "That is a good question of style.", "You’re absolutely right."],
        ["Great, now fold the dough.", "A question of style."],
    ),
    "ends_conversation": (
        ENDS_CONVERSATION,
        ["Bye! Sending love!", "That's all for today.", "I'll let you go now.", "Take care!"],
        ["That's all you need to know.", "Take care not to burn it.", "Let's start here."],
    ),
    "user_leaves": (
        USER_LEAVES,
        ["ok thanks, bye", "Thank you so much!", "gotta go", "I'm heading to bed", "That’s all!"],
        ["thanks, how do I bake bread", "what does it mean", "I go to work by bike"],
    ),
}  # fmt: skip
CASES = [(name, text, holds) for name, (_, yes, no) in SAID.items() for texts, holds in ((yes, True), (no, False))
         for text in texts]  # fmt: skip
EVERY = st.sampled_from([text for _, text, _ in CASES] + [" ", "\n", "… ", "I’ll ", "İ", "?!", "say "])


@pytest.mark.parametrize(("name", "text", "holds"), CASES)
def test_phrases(name: str, text: str, holds: bool) -> None:
    assert SAID[name][0].found(text) is holds


@settings(max_examples=50, deadline=None)
@given(st.lists(EVERY, min_size=1, max_size=6).map(" ".join))
def test_one_reply_and_a_column_are_read_alike(text: str) -> None:
    frame = pl.DataFrame({"t": [text, None]})
    for name, (marker, _, _) in SAID.items():
        assert frame.select(marker.share(pl.col("t")))["t"].to_list() == [float(marker.found(text)), None], name


def test_judges_audit_and_style_agree() -> None:
    texts = [text for _, text, _ in CASES]
    audit = pl.DataFrame({"t": texts}).select(*text_features(pl.col("t")))
    asked = [{"role": "user", "content": "How do I bake bread?"}]
    judged = [not needless_farewell(asked, text).passed for text in texts]
    assert audit["farewell"].cast(pl.Boolean).to_list() == judged
    assert style_features(pl.Series(texts))["farewell"].to_list() == audit["farewell"].to_list()
    assert style_features(pl.Series(texts))["emoji"].to_list() == audit["emoji"].to_list()
    assert audit["refusal"].cast(pl.Boolean).to_list() == [is_refusal(text) for text in texts]
    assert (audit["ends_conversation"] >= audit["farewell"]).all()
