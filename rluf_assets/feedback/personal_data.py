"""Personal data in texts, one finder per kind: patterns propose, libraries or the words around decide.

Phones by libphonenumber, cards and bank accounts by python-stdnum, addresses of machines by `ipaddress`. A date is one of
birth, an `@name` a handle and a pair of decimals a place only where the text around says so or nothing else looks so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address

Span = tuple[int, int]

_URL = re.compile(r"(?<![\w])[A-Za-z][A-Za-z0-9+.\-]{1,20}://[^\s<>\"'`\])}]+")
_URL_NAME = (
    r"(?:[a-z_\-]*token|api[_-]?key|key|auth|authorization|signature|sig|[a-z_\-]*secret|password|passwd|pwd|jwt|"
    r"session(?:[_-]?id)?|sid|code|credential|invite|reset|x-amz-[a-z-]+)"
)
_URL_SECRET = re.compile(
    rf"://[^/\s]*:[^/\s]*@|[?&#;]{_URL_NAME}=[^&\s]{{4,}}|"
    r"/(?:reset|invite|magic|verify|confirm|activate|share|private|unsubscribe|login|"
    r"token)[\w\-]*/(?=[\w\-]*\d)[\w\-]{16,}",
    re.IGNORECASE,
)
_LETTER = r"A-Za-z0-9\u00c0-\u024f"
_EMAIL = re.compile(
    rf"(?<![{_LETTER}_.+%'@\-])[{_LETTER}_.+%'\-]{{1,64}}@(?:[{_LETTER}\-]{{1,63}}\.)+[A-Za-z\u00c0-\u024f]"
    rf"{{2,24}}(?![{_LETTER}_])"
    r"|(?<![\w.])[\w.+\-]{1,64}[ ]?(?:\(at\)|\[at\]|\{at\}|<at>)[ ]?[\w\-]+(?:[ ]?(?:\(dot\)|\[dot\]|\{dot\}|<dot>|"
    r"\.)[ ]?[\w\-]+)+"
    r"|(?<![\w.+\-])[\w+\-]{1,40}(?:(?:\.| dot )[\w+\-]{1,40}){0,3} at (?:gmail|googlemail|yahoo|hotmail|outlook|live|icloud|"
    r"proton(?:mail)?|gmx|web|aol|qq|mail) dot [a-z]{2,4}\b",
    re.IGNORECASE,
)
_NO_EMAIL = re.compile(
    r"(?i)@(?:\d+(?:\.\d+)+[\w.\-]*|\d+x\.\w+|.*\.(?:png|jpe?g|gif|svg|webp|css|js|ts|json|pdf))$|^git@"
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[ \-]?\d[ ]?\d(?:[ \-.\u00a0]{0,2}[A-Z0-9]){11,32}", re.IGNORECASE)
_NUMBERED = re.compile(
    r"(?i)\b(?:account|acct|a/c|routing|aba|konto|cuenta|compte|sort code|blz|bankleitzahl)(?:\s*(?:number|no\.?|"
    r"nummer|#|is|nr\.?|ist|:|=))*\s*"
    r"(?P<digits>\d[\d \-]{4,20}\d)(?![\w]|[.,]\d)"
)
_CARD = re.compile(r"(?<![\w.\-/,])\d(?:[ \-]?\d){11,18}(?![\w\-]|[.,]\d)")
_ISSUER = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:2[2-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|6(?:011|5\d\d|"
    r"4[4-9]\d)\d{12,15}|"
    r"3(?:0[0-5]|[68]\d)\d{11,13}|35(?:2[89]|[3-8]\d)\d{12,15}|62\d{14,17}|(?:50|5[6-8]|6[0137])\d{10,17}"
)
_CARD_GROUPS = re.compile(
    r"\d{12,19}|\d{4}(?:[ \-]\d{4}){2}[ \-]\d{1,7}|\d{4}[ \-]\d{6}[ \-]\d{4,5}|\d{4}(?:[ \-]\d{4}){3}[ \-]\d{1,3}"
)
_THING = re.compile(
    r"(?i)\b(?:order|invoice|ticket|tracking|parcel|ref(?:erence)?|serial|sku|imei|isbn|ean|upc|transaction|batch|"
    r"product|item|id|epoch|hash)\b"
    r"[^\n\d]{0,14}$"
)
_CARD_WORD = re.compile(r"(?i)\b(?:card|visa|master ?card|amex|credit|debit|karte|carte|tarjeta|pay)\b[^\n]{0,30}$")
_CARD_AFTER = re.compile(r"(?i)[^\w\n]{0,3}(?:\w+ )?(?:card|visa|master ?card|amex|cvv|cvc|exp)\b")
_MONTH = (
    r"(?:jan|feb|mar|mär|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez|ene|abr|ago|dic|fév|avr|juin|juil|aoû|déc|"
    r"gen|mag|giu|lug|set|ott|"
    r"fev|out|mrt|maj)[a-zéûäç]{0,7}\.?"
)
_DATE = (
    rf"(?:\d{{4}}[\-./]\d{{1,2}}[\-./]\d{{1,2}}|\d{{1,2}}[\-./ ]{{1,2}}\d{{1,2}}[\-./ ]{{1,2}}(?:19|20)?\d\d|"
    rf"\d{{1,2}}(?:st|nd|rd|th|\.|er|º)?[ \-]+(?:of |de |d')?{_MONTH},?[ \-]+(?:de |del )?(?:19|20)\d\d|"
    rf"{_MONTH} +\d{{1,2}}(?:st|nd|rd|th)?,?[ ]+(?:19|20)\d\d|(?:19|20)\d{{2}}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])|"
    rf"(?:0[1-9]|[12]\d|3[01])(?:0[1-9]|1[0-2])(?:19|20)\d\d|(?:19|20)\d\d年\d{{1,2}}月\d{{1,2}}日?)(?!\d)"
)
_BIRTH = re.compile(
    r"(?i)(?:(?<![a-z])(?:date[ _\-]?of[ _\-]?birth|birth[ _\-]?dates?|birth[ _\-]?days?|bday|d\.?o\.?b\.?|"
    r"geburts(?:datum|tag)|geb\.|geb(?:oren)? am|"
    r"geboren|naissance|nacimiento|nacid[oa]|nascit[oa]|nat[oa] il|nascimento|nascid[oa]|geboortedatum|née?|"
    r"né\(e\)|urodzenia|födelsedatum)(?![a-z])"
    r"|(?P<born>(?<![a-z])born(?![a-z]))|出生|生日|生年月日|рождени|родил)"
    rf"[^\d\n]{{0,25}}?(?P<date>{_DATE})"
)
_PERSON = re.compile(
    r"(?i)\b(?:i|i'm|we|he|she|they|me|my|his|her|their|our|patient|client|son|daughter|wife|husband|mother|father|"
    r"mom|mum|dad|brother|sister|"
    r"baby|child|kid|girlfriend|boyfriend|partner|friend|employee|applicant|tenant)\b"
)
_NUMBER = r"[+\-−]?\d{1,3}\.\d{2,}"
_NAMED_PLACE = re.compile(
    rf"(?i)\blat(?:itude)?\b[\"'_\s:=°is]{{0,6}}(?P<a>{_NUMBER})(?:°?\s?[NS]\b)?[\"'\s,;&and°]"
    rf"{{0,9}}\blo?ng?(?:itude)?\b[\"'_\s:=is]{{0,6}}(?P<b>{_NUMBER})"
    rf"(?:°?\s?[EWO]\b)?"
)
_PLACE = re.compile(
    r"(?<![\w.,])(?<![\d,;][ ])(?P<a>[+\-−]?\d{1,2}\.\d{3,})(?P<n>°?\s?[NS]\b|"
    r"°)?[ ]?[,;/ ][ ]?(?P<b>[+\-−]?\d{1,3}\.\d{3,})(?P<e>°?\s?[EWO]\b|°)?"
    r"(?![\w])"
)
_DEGREES = re.compile(
    r"\d{1,3}\s?[°º]\s?\d{1,2}(?:\.\d+)?\s?['′’](?:\s?\d{1,2}(?:\.\d+)?\s?(?:\"|″|”|''))?\s?[NS][\s,;/]{0,3}"
    r"\d{1,3}\s?[°º]\s?\d{1,2}(?:\.\d+)?\s?['′’](?:\s?\d{1,2}(?:\.\d+)?\s?(?:\"|″|”|''))?\s?[EWO]\b"
    r"|\d{1,2}\.\d+\s?[°º]\s?[NS][\s,;/]{1,3}\d{1,3}\.\d+\s?[°º]\s?[EWO]\b"
)
_PLACE_WORD = re.compile(
    r"(?i)(?:\b(?:lat|lon|lng|coord\w*|gps|location|located|position|geo|maps?|home|house|address|live|meet|pin|"
    r"standort|koordinaten|ubicaci[óo]n)\b"
    r"|geo:|[@/]|maps\.|[?&](?:q|ll|query|center|destination)=)[^\n\d]{0,30}$"
)
_MATH_WORD = re.compile(
    r"(?i)(?:[=≈~^*+(\[{<]|\b(?:vector|mean|std|values?|loss|weights?|scores?|between|range|ratio|pi|interval|ci|p|"
    r"size)\b)[^\n\d]{0,12}$"
)
_IP = re.compile(
    r"(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)|"
    r"(?=[0-9A-Fa-f]*:[0-9A-Fa-f]*:)[0-9A-Fa-f:]{4,39}(?:(?:\.\d{1,3}){3})?(?![\w:]))"
)
_VERSION_WORD = re.compile(
    r"(?i)(?:[=~<>^]=?|\bv|version|release|build|firmware|driver|section|chapter|clause|paragraph|oid|§)[ :]{0,2}$"
)
_PHONE = re.compile(r"(?<![\w.,$€£#/\-])(?:(?:\+|00)[ ]?)?\(?\d[\d ().\-/\u00a0\u2011]{5,20}\d(?![\w]|[.,:%]\d)")
_PHONE_WORD = re.compile(
    r"(?i)\b(?:phone|tel|telephone|call|mobile|cell|whats\s?app|signal|text|sms|fax|reach|ring|dial|handy|telefon|"
    r"teléfono|portable|number is|"
    r"number:)\W[^\d\n]{0,25}$|\b(?:phone|tel|call|mobile|cell|whatsapp|fax)[.: ]{0,3}$"
)
_PHONE_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}\b")
_HANDLE = re.compile(r"(?<![\w@/.:+\-`\\\"'=])@(?P<name>[A-Za-z_][\w.]{1,29})(?:@(?:[\w\-]+\.)+[A-Za-z]{2,})?")
_PROFILE = re.compile(
    r"(?i)(?<![\w.])(?:https?://)?(?:www\.|m\.)?(?:(?:twitter|x|instagram|tiktok|snapchat|facebook|fb|threads|"
    r"telegram|t|twitch|pinterest|reddit|"
    r"linkedin|vk|medium|youtube|bsky)\.(?:com|me|net|tv|app)|mastodon\.\w+)/(?:in/|u/|user/|add/|profile/|@)?"
    r"(?P<name>(?!home\b|search\b|explore\b|i/|hashtag\b|share\b|r/|watch\b|login\b|about\b|intent\b|in\b|u\b|user\b|profile\b|add\b|c/|channel\b|"
    r"p/|reel\b|company/|groups/|shorts/)"
    r"[\w.\-]{2,40})/?(?![\w/])"
)
_SOCIAL = re.compile(
    r"(?i)(?:\b(?:twitter|instagram|insta|ig|tik ?tok|telegram|tg|threads|mastodon|snap(?:chat)?|discord|twitch|"
    r"youtube|linkedin|bluesky|bsky|reddit|"
    r"facebook|github|slack|handle|username|account|profile|follow(?:s|ed|ing)?|followers|dm|dms|cc|ping|ask|asked|"
    r"thanks|thank you|tag(?:ged)?|mention(?:ed)?|"
    r"message|contact|hi|hey|hello|hallo|hola|by|from|via|with|to|me|i'm|am|tweet\w*|post\w*|retweet\w*|rt|read|"
    r"saw|met|and|add|it's|reach|says?|said)\b"
    r"|@\w+,?)[^\n\w@`]{0,4}(?:me |on |at |us |is |as |him |her |please |to |it |in )?[^\n\w@`]{0,3}$"
)
_SOCIAL_AFTER = re.compile(
    r"(?i)^(?:['’]s\b|,? (?:on|at|via|in) (?:twitter|instagram|insta|ig|x|tik ?tok|telegram|threads|mastodon|snap|"
    r"discord|twitch|youtube|bluesky|"
    r"slack|github|facebook)\b|,? (?:please|can you|could you|what do you|do you|thanks|said|says|wrote|posted|"
    r"tweeted|replied|is my|you)\b)"
)
_NO_HANDLE = frozenset(
    re.findall(
        r"\S+",
    "channel here everyone all team property dataclass staticmethod classmethod override overrides deprecated "
    "autowired test param params return "
    "returns throws author since see type typedef media import keyframes font supports charset include mixin "
    "extend use apply layer tailwind "
    "component injectable input output ngmodule entity table column id bean service controller restcontroller "
    "getmapping postmapping "
    "requestmapping notnull nullable nonnull safevarargs suppresswarnings functionalinterface interface "
    "implementation end protocol synthesize "
    "objc main mainactor state binding published observedobject environment escaping available discardableresult "
    "viewbuilder time show elapsed "
    "inbounds macro view assert benchmark cache lru_cache cached_property wraps functools contextmanager "
    "abstractmethod pytest fixture patch mock "
    "app router route get post put delete retry asset op job decorator annotation types angular babel vue react "
    "nestjs example something param1 "
    "foreach if else section yield model html using switch while for case code page inject functions echo off",
    )
)  # fmt: skip
_CODE_AFTER = re.compile(
    r"^(?:[(=/{\[]|\.\w+\(|\s*[=(]|\s+(?:decorators?|annotations?|macros?|directive|tag|rule|int|varchar|nvarchar|"
    r"interface|class|def|public|private|scope|package)\b)"
)


def find_urls(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Addresses that carry a credential: in the host's part, the query, or a path that is one."""
    yield from (match.span() for match in _URL.finditer(text) if _URL_SECRET.search(match.group()))


def find_emails(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Mail addresses, also with (at) and (dot)."""
    for match in _EMAIL.finditer(text):
        if not _NO_EMAIL.search(match.group()) and text[match.end() : match.end() + 1] != "(":
            yield match.span()


def find_accounts(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Bank accounts: an IBAN in any spelling, or digits after a word that says so."""
    from stdnum import iban

    for match in _IBAN.finditer(text):
        found = match.group()
        if sum(one.isdigit() for one in found) < 10:
            continue
        ends = [
            end for end in range(len(found), 14, -1) if not found[end : end + 1].isalnum() and found[end - 1].isalnum()
        ]
        for end in ends:
            number = re.sub(r"[^A-Za-z0-9]", "", found[:end]).upper()
            if (
                15 <= len(number) <= 34
                and int("".join(str(int(one, 36)) for one in number[4:] + number[:4])) % 97 == 1
                and iban.is_valid(number, check_country=False)
            ):
                yield match.start(), match.start() + end
                break
    yield from (match.span("digits") for match in _NUMBERED.finditer(text))


def find_birthdates(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Dates that the words before call somebody's birth; "born" alone needs a person in the same sentence."""
    for match in _BIRTH.finditer(text):
        before = re.split(r"[.!?\n]", text[max(0, match.start() - 60) : match.start()])[-1]
        year = re.search(r"(?:19|20)\d\d", match["date"])
        field = before.strip(" -*|\"'{,(") == "" and re.match(r"(?i)born\W*:", match.group())
        person = _PERSON.search(before) or re.match(
            r"(?i)[,;]? (?:and )?(?:i|she|he|they)\b", text[match.end() : match.end() + 12]
        )
        if match["born"] is None or (year and int(year.group()) >= 1906 and (field or person)):
            yield match.span("date")


def find_cards(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Payment cards: an issuer's range and length, groups as they are printed, and the Luhn digit."""
    from stdnum import luhn

    for match in _CARD.finditer(text):
        digits, before = re.sub(r"\D", "", match.group()), text[max(0, match.start() - 40) : match.start()]
        if _ISSUER.fullmatch(digits) and _CARD_GROUPS.fullmatch(match.group()) and luhn.is_valid(digits):
            common = len(digits) >= 14 and digits[0] in "23456"
            if (
                _CARD_WORD.search(before)
                or _CARD_AFTER.match(text, match.end())
                or (common and not _THING.search(before))
            ):
                yield match.span()


def find_locations(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Latitude and longitude as a pair: named, in degrees, or two decimals that are precise enough to be a place."""
    yield from (match.span() for match in _DEGREES.finditer(text))
    yield from (
        (match.start("a"), match.end()) for match in _NAMED_PLACE.finditer(text) if _on_earth(match["a"], match["b"])
    )
    for match in _PLACE.finditer(text):
        before, after = text[max(0, match.start() - 40) : match.start()], text[match.end() : match.end() + 3]
        if re.match(r"[.,;]? ?[+\-]?\d", after) and not before.endswith("@"):
            continue  # one of a list of numbers
        said = _PLACE_WORD.search(before) or (match["n"] and match["e"])
        decimals = [len(match[one].split(".")[1]) for one in "ab"]
        alike = min(decimals) >= 4 and (decimals[0] == decimals[1] or min(decimals) >= 6)
        far = max(abs(float(match[one].replace("−", "-"))) for one in "ab") >= 10
        if _on_earth(match["a"], match["b"]) and (said or (alike and far and not _MATH_WORD.search(before))):
            yield match.span()


def _on_earth(latitude: str, longitude: str) -> bool:
    return abs(float(latitude.replace("−", "-"))) <= 90 and abs(float(longitude.replace("−", "-"))) <= 180


def find_ips(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Addresses of machines, v4 and v6; not masks, not the machine itself."""
    for match in _IP.finditer(text):
        found = match.group().rstrip(":") if not match.group().endswith("::") else match.group()
        if ":" in found and (len(found) < 4 or not re.search(r"[0-9A-Fa-f]", found)):
            continue
        try:
            address = ip_address(found)
        except ValueError:
            continue
        plain = address.is_loopback or address.is_unspecified or found.startswith("255.")
        if not plain and not _VERSION_WORD.search(text[max(0, match.start() - 40) : match.start()]):
            yield match.start(), match.start() + len(found)


def find_phones(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Phone numbers: with a country code, grouped as in a configured region, or where the words before say so."""
    for match in _PHONE.finditer(text):
        if _is_phone(match.group(), text[max(0, match.start() - 40) : match.start()], regions):
            yield match.span()


def _is_phone(text: str, before: str, regions: Sequence[str]) -> bool:
    import phonenumbers
    from phonenumbers import Leniency, NumberParseException, PhoneNumberMatcher

    international = text.strip().startswith("+") or text.startswith("00")
    if not 7 <= sum(one.isdigit() for one in text) <= 15 or re.fullmatch(r"\d+[.,]\d+", text):
        return False
    said = bool(_PHONE_WORD.search(before))
    if not said and not international and (text.isdigit() or _PHONE_DATE.match(text)):
        return False
    for region in regions:
        try:
            number = phonenumbers.parse(text, region)
        except NumberParseException:
            continue
        if (said or international) and phonenumbers.is_possible_number(number) and (
            said or phonenumbers.is_valid_number(number)
        ):  # fmt: skip
            return True
        # The matcher is slow: a number that is not valid has no right grouping either.
        grouped = not text.isdigit() and not _PHONE_DATE.match(text) and phonenumbers.is_valid_number(number)
        if grouped and PhoneNumberMatcher(text, region, leniency=Leniency.STRICT_GROUPING).has_next():
            return True
    return False


def find_handles(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Names on social networks: a profile's address, or `@name` where people are spoken to or of, and no code is."""
    yield from (match.span("name") for match in _PROFILE.finditer(text))
    for match in _HANDLE.finditer(text):
        name = match["name"].rstrip(".")
        end = match.start() + 1 + len(name) if match.group().count("@") == 1 else match.end()
        after = text[end : end + 40]
        if name.lower() in _NO_HANDLE or name.lower().split(".")[0] in _NO_HANDLE or _CODE_AFTER.search(after):
            continue
        before = text[max(0, match.start() - 40) : match.start()]
        if _SOCIAL.search(before) or _SOCIAL_AFTER.search(after) or match.group().count("@") == 2:
            yield match.start(), end


_DIGITS = r"[0-9](?:[ ().\-/\x{a0}\x{2011}]?[ (]?[0-9])"
# Kind -> what a text must have (Rust's regular expressions, ASCII classes: they are run over every text), its finder.
FINDERS: dict[str, tuple[str, Callable[[str, Sequence[str]], Iterator[Span]]]] = {
    "url": ("://", find_urls),
    "email": (r"@|[\(\[{<]at[\)\]}>]| at [a-z]+ dot ", find_emails),
    "account": (
        r"(?i)[a-z]{2}[ \-]?[0-9] ?[0-9](?:[ \-.\x{a0}]{0,2}[a-z0-9]){0,8}(?:[ \-.\x{a0}]{0,2}[0-9]){6}|(?:account|"
        r"acct|a/c|routing|aba|konto|cuenta|compte|sort code|blz|leitzahl)[^0-9]{0,20}[0-9]{2}",
        find_accounts,
    ),
    "birthdate": (
        r"(?i)birth|born|bday|dob|d\.o\.b|gebor|geb[. ]|geburt|naiss|nacid|nacim|nasc|nat[oa] il|né|geboorte|urodz|"
        r"delsedatum|"
        r"出生|生日|生年|рожд|родил",
        find_birthdates,
    ),
    "card": (r"[0-9](?:[ \-]?[0-9]){11}", find_cards),
    "location": (r"(?i)lat[^a-z]|latitude|[0-9]\.[0-9]{3,}[^a-z0-9\n]{1,8}[0-9]{1,3}\.[0-9]{3}|[°º]", find_locations),
    "ip": (r"[0-9A-Fa-f]:[0-9A-Fa-f]{0,4}:|::[0-9A-Fa-f]|[0-9]\.[0-9]{1,3}\.[0-9]", find_ips),
    "phone": (rf"{_DIGITS}{{5,}}", find_phones),
    "handle": (r"@[A-Za-z_]|\.(?:com|me|net|tv|app)/", find_handles),
}
