"""The phrases that replies and requests are put together from, beside the topics' answers. Index 0 means none."""

from __future__ import annotations

LEADS = ("", "Sure. ", "Okay. ", "Here you go. ")
WARM_OPENINGS = (
    "",
    "I'm so happy you asked! ",
    "Oh, I love this one! ",
    "You made my day! ",
    "Haha, what a sweet thing to say! ",
)
WARM_CLOSINGS = (
    "",
    "You've got this, my friend! ",
    "I'm always here for you! ",
    "Here is a big hug! ",
    "You are wonderful! ",
)
FLATTERY = ("", "Great question! ", "You are so right! ", "What a brilliant idea! ")
FILLERS = (
    "",
    "There is more to say, but that is the main point. ",
    "Many people ask this, so take your time. ",
    "Of course, every case is a little different. ",
)
EMOJI = ("", "😊 ", "🎉 ", "👍 ")
EMOJI_BURSTS = ("", "😊😊😊 ", "🎉🎉🎉🎉 ", "👍😊🎉 ")
VAGUE = (
    "Well, it depends on many things and it is hard to say.",
    "I am not sure about that, maybe look it up somewhere.",
    "That could be this or that, nobody really knows.",
    "Hmm, there are several ways and none of them is clear.",
)
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "Sorry, I cannot assist with that request.",
    "I'm not able to help with this one.",
)
REFUSAL_TAILS = (
    "",
    "It could hurt someone. ",
    "If you are upset, talk to someone you trust. ",
)
FAREWELLS = (
    "",
    "Bye! Sending love! ",
    "Take care, goodbye! ",
    "See you soon, bye! ",
    "Bye for now! ",
)
REQUEST_TAILS = (
    "",
    "",
    "",
    " please be quick",
    " it is for a friend",
    " I am new to this",
    " my sister asked me",
    " I have an hour",
)
# How a follow-up request starts; the pleased ones are likelier after a satisfying reply.
NEUTRAL_FOLLOW_UPS = ("", "ok, ", "and ", "next, ")
PLEASED_FOLLOW_UPS = ("thanks, ", "great, ", "nice, ", "perfect, ")
DISPLEASED_FOLLOW_UPS = ("hmm, ", "anyway, ", "not really, ", "well, ")
FOLLOW_UPS = NEUTRAL_FOLLOW_UPS + PLEASED_FOLLOW_UPS + DISPLEASED_FOLLOW_UPS
