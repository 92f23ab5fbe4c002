"""Lexicon of the reader: regular expressions for what a reply does, and the words that count as English."""

from __future__ import annotations

FAREWELL = (
    r"\b(good\s?bye|bye( for now|-bye)?|farewell|see (you|ya) (soon|later|tomorrow)|talk (to you )?soon|so long"
    r"|until next time|good night|take care)\b[^.!?]*[.!?]*|\bsending (you )?love\b[.!]*"
)
TAKE_CARE_OF = r"\btake care of\b"
_REFUSAL_VERBS = "help|assist|do (that|this|it|so)|provide|share|support|answer|continue|comply|fulfil"
REFUSAL = (
    rf"\b(can't|cannot|can not|won't|unable to|not able to|will not|must not|not going to)"
    rf"( (be|able|to|really|possibly|just)){{0,3}} ({_REFUSAL_VERBS})\b"
    r"|against my (rules|guidelines|policy)"
)
WARM = (
    r"\b(so (happy|glad)|i (really )?love (this|that|it|you|how)|made my day|sweet thing|haha|aww|my (dear )?friend|hug"
    r"|you've got this|here for you|you are (wonderful|amazing|the best)|believe in you|proud of you|sweetheart)\b"
)
FLATTERING = (
    r"\b((great|good|excellent) question|you are (so|absolutely) right|brilliant|smart (thinking|question)|genius)\b"
)
VAGUE = (
    r"\b(hard to say|depends on|not sure|nobody really knows|none of them is clear|see what happens|look it up"
    r"|this or that|i don't know)\b"
)
EMOJI = r"\p{Extended_Pictographic}"
WORD = r"[\p{L}\p{N}]+(?:['-][\p{L}\p{N}]+)*"
# Ordinary English beside the grammar's own words: a text made of neither is gibberish to these users.
COMMON_WORDS = (
    "a able about above after again all almost also always am an and another any are around as ask at away back bad "
    "be because been before begin being below best better between big both bring but by call came can can't cannot "
    "care careful change choose close cold come could cut day days did different do does doesn't doing don't done "
    "down each easy eat end enjoy enough even evening every everyone example fact few find first five for four friend "
    "from full gently get give go goes going good got great had happy hard has have he hello help her here hey hi him "
    "his hold home hot hour hours how however i i'd i'll i'm i've idea if in instead into is isn't it it's its just "
    "keep kind know large last later learn least leave left let let's life like little long look lot love made make "
    "many may maybe me mean means might minute minutes more morning most much must my name need never new next nice "
    "night no not nothing now of off often old on once one only open or other our out over own part people person "
    "place please point possible problem put question quick quickly quite rather read ready really remember right run "
    "said same say second see should show side simple simply since six slowly small so some someone something soon "
    "sorry start step still stop such sure take talk tell ten than thank thanks that that's the their them then there "
    "these they thing things think this those three through time times to today together tomorrow too top try turn "
    "two under until up us use used very want warm was water way we week well were what when where which while who "
    "why will wish with without won't word words work world would write year years yes yet you you'll you're your "
    "yourself "
)
