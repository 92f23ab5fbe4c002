"""Personal data in texts, replaced by typed placeholders before anything is stored beyond the raw layer.

One vectorised look picks the few texts that could hold any; only those are read closely, kind by kind: secrets first
(`credentials.py`), then what the state or a bank numbers (`national_ids.py`), then the rest (`personal_data.py`).
Names and street addresses are not looked for: that needs a model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import polars as pl

from rluf_assets.feedback.config import RedactionConfig
from rluf_assets.feedback.credentials import SECRETS
from rluf_assets.feedback.national_ids import GATE, NAMED_GATE, find_ids, find_named_ids
from rluf_assets.feedback.personal_data import FINDERS
from rluf_assets.feedback.schemas import MESSAGE

Span = tuple[int, int]
Finder = tuple[str, str, Callable[[str, Sequence[str]], Iterator[Span]]]
_OTHERS = [(kind, *finder) for kind, finder in FINDERS.items()]
# Kind, gate, finder. In this order: what an earlier one took is no longer there for a later one.
_FINDERS: tuple[Finder, ...] = (
    *(one for one in _OTHERS if one[0] == "url"),
    *(("secret", gate, find) for gate, find in SECRETS),
    *(one for one in _OTHERS if one[0] in ("email", "account")),
    ("id", GATE, find_ids),
    ("id", NAMED_GATE, find_named_ids),
    *(one for one in _OTHERS if one[0] not in ("url", "email", "account")),
)
KINDS = tuple(dict.fromkeys(kind for kind, *_ in _FINDERS))
# The first look, at memory speed: nearly all there is to find has a digit, an @ or a colon.
_DIGIT, _SIGNS = "[0-9]", ["@", ":"]
_WITHOUT = (
    r"assw|ennwort|contrase|mot de passe|senha|AKIA|ASIA|hf_|sk-|eyJ|[\(\[]at[\)\]]|[a-z]\.(?:com|me)/|-----BEGIN| dot "
)
# The second, at what passed the first: a word, a number or a run of signs that some finder wants.
_WORDS = re.findall(
    r"\S+",
    "@ :// (at) [at] pass pwd pw: pw= cvv cvc code kennwort wachtwoord passe contrase senha secret token key "
    "credential bearer basic auth "
    "cookie session sig= -----begin -u --user --pass pin otp passport licen ausweis birth born bday dob d.o.b geb "
    "naiss nacid nacim nasc né urodz "
    "delsedatum nata nato 出生 生日 生年 рожд родил паро 密码 パスワ .com/ .me/ .net/ .tv/ .app/ account acct "
    "routing konto recovery phrase lat",
)
_NUMBERS = (
    r"[0-9](?:[ ().\-/+\x{a0}\x{2011}]?[ (]?[A-Za-z]?[0-9]){5,}|[0-9]\.[0-9]{1,3}\.[0-9]|[0-9]\.[0-9]{3}|"
    r"[0-9] ?[°º]|[A-Za-z]{5}[0-9]{4}[A-Za-z]|"
    r"[0-9][A-Za-z][0-9]{3}[A-Za-z]"
)
_RUNS = r" dot |[A-Za-z0-9_\-+/.:~]{20,}|[0-9A-Fa-f]:[0-9A-Fa-f]{0,4}:|::[0-9A-Fa-f]"
# One expression is one pass over a text; case is folded for ASCII alone.
_WORTH = f"(?i-u:{'|'.join(map(re.escape, _WORDS))})|{_NUMBERS}|{_RUNS}"
# Numbers inside an address are parts of the address.
_NOT_IN_URL = frozenset({"account", "id", "card", "phone", "birthdate"})
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{1,20}://[^\s<>\"'`\])}]+")
# Images and other files written into a text: long, and no place for what people write.
_BYTES = re.compile(r"data:(?:image|audio|video|font|application)/[\w+.\-]+;base64,[A-Za-z0-9+/=]{40,}")


def redact(texts: pl.Series, config: RedactionConfig) -> tuple[pl.Series, dict[str, int]]:
    """The texts with `<EMAIL>`, `<PHONE>` ... in place of what was found, and how much of each kind that was."""
    counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    if not config.enabled:
        return texts, dict(counts)
    changed: dict[int, str] = {}
    for place, text, *gates in _possible(texts).iter_rows():
        cleaned = text
        for (kind, _, find), may_have in zip(_FINDERS, gates, strict=True):
            if may_have:
                cleaned = _without(cleaned, kind, find(cleaned, config.phone_regions), counts)
        if cleaned is not text:
            changed[place] = cleaned
    if not changed:
        return texts, dict(counts)
    where = pl.Series(list(changed), dtype=pl.UInt32)
    return texts.clone().scatter(where, list(changed.values())), dict(counts)


def _possible(texts: pl.Series) -> pl.DataFrame:
    """Place and text of what passes both looks, without which redaction costs ten times more, and its open gates."""
    text = pl.col("text")
    hint = text.str.contains(_DIGIT) | text.str.contains_any(_SIGNS) | text.str.contains(_WITHOUT)
    # One after the other: in one query Polars would take both looks at every text.
    near = texts.alias("text").to_frame().with_row_index("place").filter(hint)
    near = near.filter(text.str.contains(_WORTH))
    return near.with_columns(text.str.contains(gate).alias(f"gate_{n}") for n, (_, gate, _) in enumerate(_FINDERS))


def excerpt(value: object, chars: int = 60) -> str:
    """A value as an error, a log or a preview may show it: on one line, without personal data, cut."""
    text = " ".join(str(value)[:4000].split())
    for kind, _, find in _FINDERS:
        text = _without(text, kind, find(text, RedactionConfig().phone_regions), Counter())
    return text if len(text) <= chars else text[: chars - 1] + "…"


def redact_column(rows: pl.DataFrame, column: str, config: RedactionConfig) -> tuple[pl.DataFrame, dict[str, int]]:
    """The frame with one text column redacted."""
    cleaned, counts = redact(rows[column], config)
    return rows.with_columns(cleaned.alias(column)), counts


def redact_conversations(
    rows: pl.DataFrame, columns: Sequence[str], config: RedactionConfig
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The frame with lists of {role, content} redacted; null and empty lists stay what they are."""
    total: Counter[str] = Counter()
    for column in columns:
        said = rows.select(pl.int_range(pl.len()).alias("row"), column).explode(column, empty_as_null=False)
        flat, counts = redact_column(said.drop_nulls(column).unnest(column), "content", config)
        lists = flat.group_by("row", maintain_order=True).agg(pl.struct("role", "content").cast(MESSAGE).alias("clean"))
        numbered = rows.with_columns(pl.int_range(pl.len()).alias("row"))
        joined = numbered.join(lists, on="row", how="left", maintain_order="left")
        rows = joined.with_columns(pl.coalesce("clean", column).alias(column)).drop("row", "clean")
        total.update(counts)
    return rows, dict(total)


def _without(text: str, kind: str, found: Iterator[Span], counts: Counter[str]) -> str:
    """The text with the spans' placeholders; the same object where nothing was found."""
    spans = _apart(found)
    kept_whole = [_URL] if spans and kind in _NOT_IN_URL and "://" in text else []
    for part in [*kept_whole, _BYTES] if spans and "base64," in text else kept_whole:
        inside = [match.span() for match in part.finditer(text)]
        spans = [span for span in spans if not any(start <= span[0] < end for start, end in inside)]
    for start, end in reversed(spans):
        text = f"{text[:start]}<{kind.upper()}>{text[end:]}"
    counts[kind] += len(spans)
    return text


def _apart(found: Iterator[Span]) -> list[Span]:
    """The spans in order, those that overlap made one."""
    spans: list[Span] = []
    for start, end in sorted(found):
        if spans and start < spans[-1][1]:
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
        else:
            spans.append((start, end))
    return spans
