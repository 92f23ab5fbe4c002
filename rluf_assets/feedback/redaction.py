"""Personal data in texts, replaced by typed placeholders before anything is stored beyond the raw layer.

One vectorised pattern picks the few texts that could hold any (a digit run, an @, a URL); only those are read closely:
patterns propose, libraries decide (libphonenumber for phones, python-stdnum for cards and bank accounts, `ipaddress`).
A phone number without a country code is taken where its grouping is that of a configured region, or where the words
before it say that it is one. Names and street addresses are not looked for: that needs a model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_address

import polars as pl

from rluf_assets.feedback.config import RedactionConfig
from rluf_assets.feedback.schemas import MESSAGE

KINDS = ("email", "url", "account", "card", "ip", "phone")

# Anything that one of the close patterns could match has one of these, which without this first look costs five times more.
_DIGIT, _SIGNS = r"[0-9]", ["@", ":"]
_POSSIBLE = (
    r"@|://|\d(?:[ ().\-/\x{a0}]?[ (]?\d){5,}|[A-Z]{2}\d\d[ ]?[A-Z0-9]{4}|"
    r"[0-9a-fA-F]:[0-9a-fA-F]{0,4}:|::[0-9a-fA-F]|\d\.\d{1,3}\.\d"
)
_SECRET = (
    r"(?:access[_-]?token|token|api[_-]?key|key|auth|authorization|signature|sig|secret|password|passwd|pwd|jwt|"
    r"session(?:[_-]?id)?|sid|code|credential|invite|reset|x-amz-[a-z-]+)"
)
_URL_SECRET = re.compile(rf"://[^/\s]*:[^/\s]*@|[?&#;]{_SECRET}=[^&\s]{{4,}}", re.IGNORECASE)
_PATTERNS: dict[str, str] = {
    "url": r"(?<![\w])[A-Za-z][A-Za-z0-9+.\-]{1,20}://[^\s<>\"'`\])}]+",
    "email": r"(?<![\w.+%'\-])[\w.+%'\-]{1,64}@(?:[A-Za-z0-9\-]{1,63}\.)+[A-Za-z]{2,24}(?![\w])",
    "account": r"(?<!\w)[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?(?!\w)",
    "numbered": (
        r"(?i:\b(?:account|acct|a/c|routing|konto|sort code)(?:\s*(?:number|no\.?|nummer|#|is|nr\.?|:))*\s*)"
        r"\d[\d \-]{4,20}\d(?!\w)"
    ),
    "card": r"(?<![\w.\-])\d(?:[ \-]?\d){12,18}(?![\w\-])",
    "ip": r"(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)|(?=[0-9A-Fa-f]*:[0-9A-Fa-f]*:)[0-9A-Fa-f:]{4,39}(?![\w:]))",
    "phone": r"(?<![\w.,$€£#/\-])(?:(?:\+|00)[ ]?)?\(?\d[\d ().\-/\u00a0]{5,20}\d(?![\w]|[.,:%]\d)",
}
_CLOSE = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _PATTERNS.items()))
_WITHIN_URL = re.compile("|".join(f"(?P<{kind}>{_PATTERNS[kind]})" for kind in ("email", "ip")))
_PHONE_WORD = re.compile(
    r"(?i)\b(?:phone|tel|telephone|call|mobile|cell|whats\s?app|signal|text|sms|fax|reach|ring|dial|handy|number is|number:)"
    r"\W[^\d\n]{0,25}$|\b(?:phone|tel|call|mobile|cell|whatsapp|fax)[.: ]{0,3}$"
)  # fmt: skip
_VERSION_WORD = re.compile(r"(?i)(?:[=~<>]=|\bv|version|release|build|firmware|driver|section|chapter)[ :]{0,2}$")


def redact(texts: pl.Series, config: RedactionConfig) -> tuple[pl.Series, dict[str, int]]:
    """The texts with `<EMAIL>`, `<PHONE>` ... in place of what was found, and how much of each kind that was."""
    counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    if not config.enabled:
        return texts, dict(counts)
    hinted = (texts.str.contains(_DIGIT) | texts.str.contains_any(_SIGNS)).fill_null(False).arg_true()
    places = hinted.filter(texts.gather(hinted).str.contains(_POSSIBLE))
    if places.is_empty():
        return texts, dict(counts)
    replace = partial(_replace, counts=counts, regions=config.phone_regions)
    cleaned = [_CLOSE.sub(replace, text) for text in texts.gather(places)]
    return texts.clone().scatter(places, cleaned), dict(counts)


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


def _replace(match: re.Match[str], *, counts: Counter[str], regions: Sequence[str]) -> str:
    kind, text = str(match.lastgroup), match.group()
    before = match.string[max(0, match.start() - 40) : match.start()]
    if kind == "url":
        if not _URL_SECRET.search(text):
            return _WITHIN_URL.sub(partial(_replace, counts=counts, regions=regions), text)
    elif kind == "numbered":
        kind, digits = "account", re.search(r"\d[\d \-]*$", text)
        counts["account"] += 1
        return f"{text[: digits.start()] if digits else ''}<ACCOUNT>"
    elif not _CHECKS[kind](text, before, regions):
        if kind == "card" and _is_phone(text, before, regions):
            kind = "phone"
        else:
            return text
    counts[kind] += 1
    return f"<{kind.upper()}>"


def _is_account(text: str, before: str, regions: Sequence[str]) -> bool:
    from stdnum import iban

    return bool(iban.is_valid(text))


def _is_card(text: str, before: str, regions: Sequence[str]) -> bool:
    from stdnum import luhn

    digits = re.sub(r"\D", "", text)
    return digits[0] in "23456" and len(digits) <= 19 and bool(luhn.is_valid(digits))


def _is_ip(text: str, before: str, regions: Sequence[str]) -> bool:
    if ":" in text and (len(text) < 4 or not re.search(r"[0-9A-Fa-f]", text)):
        return False
    try:
        ip_address(text)
    except ValueError:
        return False
    return not _VERSION_WORD.search(before)


def _is_phone(text: str, before: str, regions: Sequence[str]) -> bool:
    import phonenumbers
    from phonenumbers import Leniency, NumberParseException, PhoneNumberMatcher

    international = text.strip().startswith("+") or text.startswith("00")
    if not 7 <= sum(one.isdigit() for one in text) <= 15 or re.fullmatch(r"\d+[.,]\d+", text):
        return False
    said = bool(_PHONE_WORD.search(before))
    for region in regions:
        try:
            number = phonenumbers.parse(text, region)
        except NumberParseException:
            continue
        if (said or international) and phonenumbers.is_possible_number(number) and (
            said or phonenumbers.is_valid_number(number)
        ):  # fmt: skip
            return True
        if not text.isdigit() and not _DATE.match(text) and PhoneNumberMatcher(
            text, region, leniency=Leniency.STRICT_GROUPING
        ).has_next():  # fmt: skip
            return True
    return False


_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}\b")
_CHECKS: dict[str, Callable[[str, str, Sequence[str]], bool]] = {
    "email": lambda text, before, regions: True,
    "account": _is_account, "card": _is_card, "ip": _is_ip, "phone": _is_phone,
}  # fmt: skip
