"""Numbers that the state gives a person: found by form, decided by the check digits of python-stdnum.

Where form and check digits make a chance hit rare (a letter in a fixed place, a birth date inside, two check digits),
they are enough. Where they do not (nine or ten bare digits), the words before the number must say what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any

Span = tuple[int, int]

# Form -> the stdnum modules that may know it; a match that one of them calls valid is somebody's number.
_STRONG: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"\d{3}-\d{2}-\d{4}", ("us.ssn", "us.itin", "us.atin")),
    (r"[12]\d{2}[ .\-]?(?:0[1-9]|[1-9]\d)[ .\-]?(?:\d{2}|2[AB])[ .\-]?\d{3}[ .\-]?\d{3}[ .\-]?\d{2}", ("fr.nir",)),
    (r"\d{8}[ \-]?[A-HJ-NP-TV-Z]|[XYZ][ \-]?\d{7}[ \-]?[A-HJ-NP-TV-Z]", ("es.dni", "es.nie")),
    (r"[A-Z]{3}[ ]?[A-Z]{3}[ ]?[\dLMNP-V]{2}[A-EHLMPRST][\dLMNP-V]{2}[ ]?[A-Z][\dLMNP-V]{3}[A-Z]", ("it.codicefiscale",)),
    (r"[A-Z]{3}[ABCFGHLJPT][A-Z]\d{4}[A-Z]", ("in_.pan",)),
    (r"[2-9]\d{3}[ \-]\d{4}[ \-]\d{4}", ("in_.aadhaar",)),
    (r"\d{3}\.\d{3}\.\d{3}-\d{2}", ("br.cpf",)),
    (r"\d{2}[01235]\d[0-3]\d[ ]?[+\-][ ]?\d{4}|(?:19|20)\d{6}[+\-]\d{4}", ("se.personnummer",)),
    (r"\d{6}[+\-A-FU-Y]\d{3}[0-9A-Y]", ("fi.hetu",)),
    (r"756[. ]?\d{4}[. ]?\d{4}[. ]?\d{2}", ("ch.ssn",)),
    (r"\d{17}[\dX]", ("cn.ric",)),
    (r"\d{6}-\d{7}", ("kr.rrn",)),
    (r"[A-Z]{4}\d{6}[HM][A-Z]{5}[0-9A-Z]\d", ("mx.curp",)),
    (r"\d{1,2}\.\d{3}\.\d{3}-[\dK]", ("cl.rut",)),
    (r"\d{2}\.\d{2}\.\d{2}[\-.]\d{3}[\-.]\d{2}", ("be.nn",)),
    (r"\d{2}[0156]\d[0-3]\d/\d{3,4}", ("cz.rc",)),
    (r"(?:20|23|24|27)-\d{8}-\d", ("ar.cuit",)),
)  # fmt: skip
# Bare digits and letters: only where the words before say so.
_WEAK = re.compile(
    r"(?<![\w.,])(?:[A-Z]{0,3}\d(?:[ .\-/]?\d){5,16}(?:[ \-]?[A-Z]{1,2})?|"
    r"[A-Z]{2}(?:[ ]?\d{2}){3}[ ]?[A-D])(?![\w]|[.,]\d)",
    re.IGNORECASE,
)
_WEAK_MODULES = (
    "us.ssn", "us.itin", "gb.nhs", "gb.utr", "de.idnr", "nl.bsn", "in_.aadhaar", "in_.epic", "br.cpf", "be.nn",
    "pl.pesel",
    "se.personnummer", "dk.cpr", "no.fodselsnummer", "cz.rc", "ro.cnp", "bg.egn", "ee.ik", "lt.asmens", "hr.oib",
    "gr.amka",
    "pt.nif", "pt.cc", "ie.pps", "tr.tckimlik", "il.idnr", "za.idnr", "cn.ric", "kr.rrn", "jp.in_", "my.nric", "th.pin",
    "id.nik", "mx.rfc", "ar.dni", "ar.cuit", "cl.rut", "ec.ci", "pe.cui", "au.tfn", "ca.sin", "nz.ird", "ua.rntrc",
    "si.emso", "es.dni", "es.nie", "fr.nir", "fr.nif", "ch.ssn", "at.tin", "in_.pan", "fi.hetu", "co.nit",
    "it.codicefiscale",
)  # fmt: skip
_NAMED = re.compile(
    r"(?i)\b(?:ssn|itin|social security|nino|national insurance|ni (?:number|no)|nhs|utr|steuer-?(?:id|"
    r"identifikationsnummer|nummer)|"
    r"(?:steuerliche )?identifikationsnummer|idnr|sozialversicherungsnummer|rentenversicherungsnummer|"
    r"personalausweis\w*|reisepass\w*|"
    r"bsn|burgerservicenummer|aadhaar|aadhar|pan (?:card|number|no)|voter id|cpf|pesel|personnummer|cpr|"
    r"f[øo]dselsnummer|"
    r"rodn[ée] [čc][íi]slo|cnp|egn|isikukood|asmens kodas|oib|amka|nif|pps|kimlik|tc no|teudat|id number|"
    r"identity (?:number|no|card)|"
    r"national id(?:entity|entification)?|personal (?:id|identity|identification) (?:number|code|no)|"
    r"tax(?:payer)? id\w*|tax (?:file|number)|"
    r"tfn|sin|social insurance|ird|numero de identidad|dni|nie|n[úu]mero de (?:seguridad social|identidad)|"
    r"s[ée]curit[ée] sociale|nir|"
    r"codice fiscale|nik|mykad|ic (?:number|no)|my number card|individual number|マイナンバー|curp|rfc|rut|"
    r"c[ée]dula|cuit|cuil|emso|passport|driv(?:er'?s?|ing) licen[sc]e|"
    r"licen[sc]e (?:number|no)|身份证|rijksregisternummer|numero national|medicare|personal ?code)\b"
    r"(?:\W{0,3}(?:card|number|nummer|no\.?|nr\.?|num[ée]ro|id|code|is|was|ist|es|est|e|for|my|of|it'?s|in|the|"
    r"here|:|=|#)\b){0,4}[^\w\n]{0,6}$"
)
_PAPER = re.compile(r"(?i)passport|licen[sc]e|reisepass|personalausweis|identity card|dni|medicare")
_PAPER_FORM = re.compile(r"(?<!\w)[A-Z]{0,3}\d(?:[A-Z0-9]*\d){4}[A-Z0-9]{0,6}(?!\w)", re.IGNORECASE)
_NINO = re.compile(r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]\d{6}[A-D]")
_NINO_FORM = re.compile(
    r"(?<!\w)[A-Z]{2}[ \-]\d\d[ \-]\d\d[ \-]\d\d[ \-][A-D](?!\w)"
)  # in pairs; else a word must say so
_NINO_LIKE = re.compile(r"[A-Z]{2}\d{6}[A-D]", re.IGNORECASE)
_SSN = re.compile(r"(?i)ssn|itin|social (?:security|insurance)")
_THING = re.compile(
    r"(?i)\b(?:order|invoice|ticket|case|part|serial|model|sku|item|ref(?:erence)?|tracking|parcel|version|build|"
    r"article|isbn|issn|ean|upc|"
    r"transaction|batch|lot|product|flight|booking|bestellung|rechnung|artikel|commande|pedido|factura)\b[^\n]{0,14}$"
)
GATE = (
    r"[0-9](?:[ .\-/+]?[A-Za-z]?[0-9]){5,}|[A-Za-z]{5}[0-9]{4}[A-Za-z]|"
    r"[A-Za-z]{3} ?[A-Za-z]{3} ?[0-9A-Z]{2}[A-Za-z][0-9A-Z]{2}"
)
# What a text must have for the finder, as in personal_data.FINDERS.
NAMED_GATE = (
    r"(?i)ssn|itin|social|nino|insurance|ni n|nhs|utr|steuer|identifi|idnr|versicherungs|ausweis|passport|"
    r"reisepass|bsn|burger|aadh|pan |voter|cpf|"
    r"pesel|personnummer|cpr|dselsn|rodn|cnp|egn|isikuk|asmens|oib|amka|nif|pps|kimlik|tc no|teudat|id number|"
    r"identi|national id|personal|tax|tfn|"
    r"sin|ird|dni|nie|seguridad|sociale|nir|codice|nik|mykad|ic n|number card|individual|curp|rfc|rut|c[ée]dula|"
    r"cuit|cuil|emso|licen|身份|rijks|"
    r"numero nat|medicare|マイナ"
)
_ALL_FORMS = re.compile(
    "|".join(f"(?P<f{n}>(?:{form})(?![\\w]|[.,\\-/]\\d))" for n, (form, _) in enumerate(_STRONG)), re.IGNORECASE
)
_START = re.compile(r"(?<![\w.,\-/])(?=(?:[A-Za-z]{1,6}[ \-]?){0,2}\d)[A-Za-z0-9]")


def find_ids(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Numbers whose form and check digits are enough."""
    for start in _START.finditer(text):
        match = _ALL_FORMS.match(text, start.start())
        if match and not _a_thing(text, match.start()):
            modules = _STRONG[int(str(match.lastgroup)[1:])][1]
            if any(_valid(name, match.group()) for name in modules):
                yield match.span()
    for match in _NINO_FORM.finditer(text):
        if _NINO.fullmatch(re.sub(r"[ \-]", "", match.group())) and not _a_thing(text, match.start()):
            yield match.span()


def find_named_ids(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Numbers that the words before name; spans may overlap."""
    for match in _WEAK.finditer(text):
        words = _words_before(text, match.start())
        if not words:
            continue
        digits = re.sub(r"[ \-]?[A-Za-z]+$", "", match.group())
        for number in (match.group(), digits):
            plain = re.sub(r"[ \-]", "", number)
            said = _NINO_LIKE.fullmatch(plain) or (len(plain) == 9 and plain.isdigit() and _SSN.match(words))
            if said or any(_valid(name, number) for name in _WEAK_MODULES):
                yield match.start(), match.start() + len(number)
                break
    for match in _PAPER_FORM.finditer(text) if _PAPER.search(text) else ():  # no check digits that all states share
        words = _words_before(text, match.start())
        if words and _PAPER.search(words):
            yield match.span()


def _words_before(text: str, start: int) -> str | None:
    found = _NAMED.search(text[max(0, start - 70) : start])
    return found.group() if found else None


def _a_thing(text: str, start: int) -> bool:
    return _THING.search(text[max(0, start - 40) : start]) is not None


def _valid(name: str, number: str) -> bool:
    return any(_module(name).is_valid(one) for one in {number, re.sub(r"[ .]", "", number)})


@cache
def _module(name: str) -> Any:
    return import_module(f"stdnum.{name}")
