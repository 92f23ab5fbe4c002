"""Secrets in texts: keys and tokens by their providers' formats, whole PEM blocks, headers, passwords that are told.

A provider's prefix is enough where nothing else begins so; what comes after `password =`, `token:` or `my key is` is
judged: a literal that somebody could use counts, code, a placeholder or a plain word does not. Written here because the
kept rule sets answer another question: `detect-secrets` judges lines of code (it finds the line, not the span, and of a
PEM block only its first line), and the scanners for repositories are binaries.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from string import ascii_letters, digits

Span = tuple[int, int]

# Beginnings that nothing else has. Lengths are lower bounds: providers have made their tokens longer before.
_DISTINCT = (
    r"sk-(?:ant|proj|svcacct|admin|or-v1|lf|org|cp)-[\w\-]{16,}", r"(?:sk|rk)_(?:live|test|prod)_\w{10,}",
    r"whsec_[\w+/=]{16,}",
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])", r"AIza[\w\-]{30,}", r"ya29\.[\w\-.]{20,}",
    r"GOCSPX-[\w\-]{20,}",
    r"gh[pousr]_[A-Za-z0-9]{20,}", r"github_pat_\w{20,}",
    r"gl(?:pat|dt|rt|cbt|ptt|ft|soat|agent|oas|imt|wt)-[\w\-.]{16,}",
    r"xox[a-z][.\-][\w.\-]{12,}", r"xapp-\d-[\w\-]{12,}", r"SG\.[\w\-]{16,}\.[\w\-]{16,}",
    r"hf_[A-Za-z0-9]{20,}", r"api_org_[A-Za-z0-9]{20,}", r"npm_[A-Za-z0-9]{20,}", r"pypi-[\w\-]{20,}",
    r"rubygems_[0-9a-f]{40,}",
    r"dckr_(?:pat|oat)_[\w\-]{16,}", r"do[opr]_v1_[0-9a-f]{32,}", r"shp(?:at|ss|ca|pa)_[0-9a-fA-F]{20,}",
    r"sq0(?:atp|csp|idp)-[\w\-]{20,}", r"AGE-SECRET-KEY-1[A-Z0-9]{40,}", r"pat-(?:na|eu)\d-[\w\-]{20,}",
    r"lin_(?:api|oauth)_\w{20,}",
    r"ntn_[A-Za-z0-9]{20,}", r"PMAK-[0-9a-f]{20,}-[0-9a-f]{20,}", r"sntr[yu]s_[\w+/=\-]{20,}",
    r"gl(?:sa|c)_[\w+/=]{20,}",
    r"dapi[0-9a-f]{32}(?:-\d)?", r"hv[sbr]\.[\w\-]{20,}", r"nvapi-[\w\-]{20,}",
    r"(?:gsk|xai|pplx|tvly|csk|fw)[_\-][A-Za-z0-9]{20,}",
    r"r8_[A-Za-z0-9]{20,}", r"sbp_[0-9a-f]{20,}", r"sb_secret_[\w\-]{16,}", r"re_[A-Za-z0-9]{6,10}_[A-Za-z0-9]{16,}",
    r"figd_[\w\-]{20,}", r"AT[AC]TT3[\w\-=]{20,}", r"pat[A-Za-z0-9]{14}\.[0-9a-f]{40,}",
    r"LTAI[A-Za-z0-9]{12,}(?![A-Za-z0-9])",
    r"tskey-[\w\-]{16,}", r"pscale_(?:tkn|pw|oauth)_[\w\-.]{16,}", r"pul-[0-9a-f]{40}", r"ops_eyJ[\w+/=]{40,}",
    r"NRAK-[A-Z0-9]{20,}",
    r"oy2[a-z0-9]{43}", r"sq[pua]_[0-9a-f]{40}", r"key-[0-9a-f]{32}(?![0-9a-f])", r"[0-9a-f]{32}-us\d{1,2}(?!\d)",
    r"(?:AC|SK)[0-9a-f]{32}(?![0-9A-Za-z])", r"EAA[A-Za-z0-9]{60,}", r"phx_[A-Za-z0-9]{30,}", r"CFPAT-[\w\-]{30,}",
    r"sl\.(?:u\.)?[\w\-]{40,}", r"v1\.0-[0-9a-f]{24}-[0-9a-f]{40,}", r"A3-[A-Z0-9]{6}-[A-Z0-9\-]{20,}",
    r"lsv2_(?:pt|sk)_\w{20,}",
    r"ey[JK][\w\-]{8,}\.[\w\-]{8,}(?:\.[\w\-]*){1,3}",  # JWT and JWE; the signature may be empty
    r"[MNO][A-Za-z0-9]{23,27}\.[\w\-]{6}\.[\w\-]{27,40}",  # a Discord bot
    r"(?:bot)?\d{8,10}:[A-Za-z0-9_\-]{35}(?![\w\-])",  # a Telegram bot
    r"[\w.~]{3}\dQ~[\w.~\-]{31,34}",  # an Azure application
)  # fmt: skip
_LOOSE = r"sk-[A-Za-z0-9_\-]{20,}"  # also the beginning of CSS classes
_TOKEN = re.compile("(?<![A-Za-z0-9_+])(?:" + "|".join(_DISTINCT) + f"|(?P<loose>{_LOOSE}))")
_RUN = re.compile(r"[A-Za-z0-9_\-.+/=~:]{16,}")
_DUMMY = re.compile(r"(?i)[x*]{6}|your|placeholder|redacted|token[_\-]?here|key[_\-]?here|<|\.\.\.|(.)\1{15}")

_PEM = re.compile(
    r"-----BEGIN (?P<what>[A-Z0-9 ]{3,40})-----[^-]*(?:-(?!----)[^-]*)*-----END (?P=what)-----"
    r"|-----BEGIN [A-Z0-9 ]{3,40}-----(?:(?:[\r\n\t ]|\\[nr])++[A-Za-z0-9+/=]{16,}+)++"
    r"(?:(?:[\r\n]|\\[nr])++[A-Za-z0-9+/]*={1,2})?"
)
_HOOK = re.compile(
    r"https?://(?:hooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)/|"
    r"(?:\w+\.)?discord(?:app)?\.com/api/(?:v\d+/)?webhooks/\d|"
    r"[\w.\-]*webhook\.office(?:365)?\.com/|outlook\.office(?:365)?\.com/webhook/|[\w.\-]+\.logic\.azure\.com|"
    r"[\w.\-]+\.powerplatform\.com[:/]|hooks\.zapier\.com/hooks/|maker\.ifttt\.com/|hook\.\w+\.make\.com/|"
    r"api\.telegram\.org/(?:file/)?bot\d)"
    r"[^\s<>\"'`)\]}]+"
    r"|https?://[^\s<>\"'`)\]}/:]{1,200}(?::\d+)?/(?:[\w.\-]{1,60}/){0,4}(?:web-?)?hooks?/(?:[\w\-]{1,60}/){0,4}"
    r"(?=[\w\-]{0,99}\d)(?=[\w\-]{0,99}[A-Za-z])[\w\-]"
    r"{16,}[^\s<>\"'`)\]}]*"
)
_AZURE = re.compile(
    r"(?i:\b(?:AccountKey|SharedAccessKey|SharedAccessSignature)=(?P<value>[^;\s\"'<>]{16,}))|(?<![\w+/])[A-Za-z0-9+/]{86}=="
    r"|\bsig=[A-Za-z0-9%+/]{20,}=*(?:&[\w%.\-]{1,40}=[\w%:.,\-+/=]{0,300})*"
)
_QUERY = ascii_letters + digits + "_%:.,-+/=&"
_HEADER = re.compile(
    r"(?i)(?:\b(?:bearer|token|apikey)[ \t]+(?P<bearer>(?=[^\s\"']*\d)[\w\-.=+/~:]{16,})"
    r"|\bbasic[ \t]+(?P<basic>[A-Za-z0-9+/]{8,}={0,2})"
    r"|\b(?:x-)?(?:api-?key|auth(?:entication|orization)?(?:-token)?|access-token|csrf-token|session(?:-?id)?|"
    r"set-cookie|cookie)"
    r"[\"']?[ \t]*:[ \t]*[\"']?(?P<header>(?=[^\n\"']*\d)[^\s\"'<>{}$]{12,}(?:;[ ]?[^\s\"'<>;]+=[^\s\"'<>;]{8,})*)"
    r"|\b(?:curl|wget|http)\b[^\n]{0,200}?[ \t](?:-u|--user|--password|"
    r"-a)[ =][\"']?(?P<user>[^\s:\"'$]{1,64}:[^\s\"'$]{3,})"
    r"|\b(?:mysql\w*\b[^\n]{0,100}?[ ]-p|sshpass[ ]-p[ ]?)[\"']?(?P<flag>[^\s\"'$\-]{4,}))"
)
_AWS = re.compile(
    r"(?<![\w+/=])(?=[A-Za-z+/]{0,39}\d)(?=[^A-Z]{0,39}[A-Z])(?=[^a-z]{0,39}[a-z])[A-Za-z0-9+/]{40}(?![\w+/=])"
)
_AWS_WORD = re.compile(r"(?i)aws|secret|<SECRET>|AKIA|ASIA")

_PASSWORD = (
    r"(?<![a-z])(?:pw|pass)(?=[ \t]{0,2}[:=])|passw(?:or[dt]|d)|"
    r"passphrase|passcode|pwd|kennwort|wachtwoord|mot de passe|contrase[ñn]a|senha|пароль|密码|パスワード"
)
_KEY = r"secret|token|key|credentials?|recovery code|seed phrase"
_KEY_OF = re.compile(
    r"(?i)(?:api|access|private|auth|signing|encryption|subscription|account|licen[sc]e|master|secret|recovery|"
    r"client|app|shared|webhook)[ _\-]?$"
)
_TOLD = re.compile(
    rf"(?i)(?:(?P<password>{_PASSWORD})|(?P<key>{_KEY}))(?:[_\-]?(?:value|string|key|\d{{1,2}}))?s?[\"'\]`*)]{{0,3}}"
    r"(?:[ ](?:for|of|to)[ ](?:the |my |our |this )?[\w\-]{1,20})?"
    r"(?P<sep>[ \t]{0,3}(?::=|=>|->|={1,3}|:(?!:)|：)[ \t]{0,3}|['’]s[ \t]+|[ \t]+(?:is|was|ist|lautet|es|est|é|to|"
    r"are):?[ \t]+|[ \t]+)"
    r"(?P<value>(?P<quote>[\"'`])[^\"'`\n]{1,200}(?P=quote)|[^\s\"'`,;]{1,200})"
)
_LOGIN = re.compile(
    r"(?i)\b(?:log ?in|user(?:name)?|account|benutzer(?:name)?|usuario|utilisateur|credentials|wi-?fi|ssid)\b"
)
_PIN = re.compile(
    r"(?i)\b(?:(?:pin|otp|tan|(?:verification|security|access|confirmation|one-time|login|authentication|auth|2fa|"
    r"mfa|sms|backup) code)"
    r"(?: (?:code|number))?[ \t]*(?:is|:|=|lautet)[ \t]*|passcode[ \t:=]{1,3}|"
    r"cv[vc]2?\W{1,3}(?=\d{3,4}(?!\d)))(?P<value>\d{3,8})(?![\w.,]?\d)"
)
_CODE = re.compile(
    r"^(?:[A-Za-z_$][\w.$]*[(\[{<]|[A-Za-z_]\w*(?:(?:\.|->|::)[A-Za-z_]\w*)+$|[$%@#&!<\[{(*=/\\]|f?[\"']{2}|"
    r"process\.env|os\.env)"
)
_WORDS = frozenset(
    re.findall(
        r"\S+",
    "password passwort passwd pwd secret token none null nil true false undefined string str text bytes int bool "
    "any required optional "
    "wrong correct incorrect invalid valid changeme change_me hidden example sample test input value field empty "
    "missing expired "
    "forgotten protected encrypted hashed strong weak long short same new old your my the a an and or not is in on "
    "for from with to "
    "of this that it reset manager generator policy length based only unknown unset default",
    )
)  # fmt: skip


def find_pem(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Whole PEM blocks, also with their line ends escaped."""
    yield from (match.span() for match in _PEM.finditer(text) if len(match.group()) > 60)


def find_hooks(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Addresses of webhooks: whoever knows the path may post."""
    yield from (match.span() for match in _HOOK.finditer(text))


def find_tokens(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Keys and tokens by their providers' formats; looked for in long words only."""
    for run in _RUN.finditer(text):
        for match in _TOKEN.finditer(text, run.start(), run.end()):
            if not _DUMMY.search(match.group()) and (match["loose"] is None or _random(match["loose"][3:])):
                yield match.span()
        for match in _AWS.finditer(text, run.start(), run.end()):
            if _AWS_WORD.search(text, max(0, match.start() - 120), match.start()):
                yield match.span()


def find_azure(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Keys of storage accounts and service buses, and shared access signatures."""
    for match in _AZURE.finditer(text):
        if match["value"]:
            yield match.span("value")
            continue
        head = text[max(0, match.start() - 600) : match.start()] if match.group().startswith("sig=") else ""
        yield match.start() - len(head) + len(head.rstrip(_QUERY)), match.end()


def find_headers(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """What authenticates a request: bearer and basic headers, API keys, cookies, curl's user and password."""
    for match in _HEADER.finditer(text):
        name = str(match.lastgroup)
        if not _DUMMY.search(match[name]) and (name != "basic" or _user_and_password(match[name])):
            yield match.span(name)


def find_told(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Passwords and keys that are told or assigned."""
    yield from (match.span("value") for match in _PIN.finditer(text))
    yield from _told(text)


def _told(text: str) -> Iterator[Span]:
    place = 0
    while match := _TOLD.search(text, place):
        place = match.start() + 1
        value, start, end = match["value"], *match.span("value")
        if match["quote"]:
            value, start, end = value[1:-1], start + 1, end - 1
        else:
            value = re.split(r"[)\]}>](?=[\s,;.)]|$)|&\w+=", value)[0].rstrip(
                ".,;:" if "=" in match["sep"] else ".,;:!?"
            )
            end = start + len(value)
        judge = _is_password if match["password"] else _is_key
        if end > start and judge(match, value, text):
            yield start, end
            place = end


def _is_password(match: re.Match[str], value: str, text: str) -> bool:
    separator, quoted = match["sep"].strip().lower(), bool(match["quote"])
    if (
        len(value) < 4
        or re.fullmatch(r"[\d.,]+%", value)
        or value.lower() in _WORDS
        or _DUMMY.search(value)
        or value == match["password"]
    ):
        return False
    if _CODE.match(value) and not (quoted and re.search(r"\d", value) and not value.startswith(("$", "{", "<", "%"))):
        return False
    if " " in value:
        return quoted and ("phrase" in match["password"].lower() or bool(re.search(r"\d", value)))
    strange = re.search(r"\d|[^\w\-'’.…/()]|\w[!$@]", value) is not None or re.search(r"[a-z][A-Z]", value) is not None
    login = _LOGIN.search(text, max(0, match.start() - 60), match.start()) is not None
    if separator == "":  # "login kim password hunter2"
        return strange and login and len(value) >= 6
    if separator in (":", "：", "=", ":=", "=>", "->", "==", "==="):
        set_as_is = match["sep"] == "=" and text[match.end() : match.end() + 1] not in (",", ")", "_")
        started = text[max(0, match.start() - 1) : match.start()] not in ("(", ",")
        return quoted or strange or login or (set_as_is and started and "_" not in value)
    return (
        quoted
        or (strange and not re.fullmatch(r"[\d.]+%?|\d+[a-z]+", value))
        or re.fullmatch(r"\d{4,}", value) is not None
    )


def _is_key(match: re.Match[str], value: str, text: str) -> bool:
    if not re.fullmatch(r"[\w\-.+/=~:!@#$%^&*]{12,}", value) or _DUMMY.search(value) or _CODE.match(value):
        return False
    if match["key"].lower() == "key" and not _KEY_OF.search(text[max(0, match.start() - 14) : match.start()]):
        return False
    if (
        re.fullmatch(r"[\d.:\-/T]+Z?", value)
        or "://" in value
        or re.fullmatch(r"[\w\-]+\.(?:json|pem|txt|ya?ml|env|key|py|js)", value)
    ):
        return False
    return _random(value)


def _random(value: str) -> bool:
    """Whether a value looks drawn rather than written: digits among letters, or both cases at a key's length."""
    if len(set(value)) < 6 or not re.search(r"[A-Za-z]", value):
        return False
    drawn = sum(one.isdigit() for one in value)
    mixed = re.search(r"[a-z]", value) is not None and re.search(r"[A-Z]", value) is not None
    words = re.fullmatch(r"(?:[A-Za-z]{2,}|\d{1,2})(?:[_\-./:](?:[A-Za-z]{2,}\d{0,2}|\d{1,2}))+", value) is not None
    return not words and (drawn >= 2 or (mixed and len(value) >= 20))


def _user_and_password(value: str) -> bool:
    try:
        return b":" in base64.b64decode(value + "=" * (-len(value) % 4), validate=True)[1:]
    except binascii.Error:
        return False


# Finder -> what a text must have for it, in Rust's regular expressions and ASCII alone: these are run over every text.
SECRETS: tuple[tuple[str, Callable[[str, Sequence[str]], Iterator[Span]]], ...] = (
    (r"-----BEGIN", find_pem),
    (r"https?://[^ ]*(?:[hH]ook|logic\.azure|powerplatform|ifttt|/(?:file/)?bot[0-9])", find_hooks),
    (r"[A-Za-z0-9_\-+/]{20,}|[A-Za-z0-9_\-]{6,}\.[A-Za-z0-9_\-]{6,}|[0-9]{8}:[A-Za-z0-9]|Q~", find_tokens),
    (r"Key=|Signature=|sig=|[A-Za-z0-9+/]{86}==", find_azure),
    (r"(?i)bearer|token|basic |api-?key|auth|cookie|session|mysql|sshpass|-u[ =]|--(?:user|password)[ =]|-a ", find_headers),
    (
     r"(?i)passw|passphrase|passcode|pwd|kennwort|wachtwoord|mot de passe|contrase|senha|secret|token|key|"
     r"credential|seed phrase|recovery code|"
     r"pw|pass|pin |pin:|otp|tan[ :]| code|cv[vc]|паро|密码|パスワ", find_told),
)  # fmt: skip
