"""Mask personal data: mail addresses, phone and payment card numbers, public IP addresses.

The placeholders are Dolma's (Soldaini et al. 2024, section on personal information), which has
none for cards; FineWeb masks mail and public IP addresses with invented ones instead (Penedo et
al. 2024). Precision goes before recall: a number must be written as its kind is written, and what
cannot be personal stays: example.org and its like (RFC 2606), private and documentation addresses
(RFC 1918, 5737, 3849), phone numbers reserved for fiction, numbers called ISBN, version or
section. Names, postal addresses and spelled-out mail addresses ("x at y") are not found.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

from modules.corpus.addresses import EXTRACT
from modules.corpus.document import Document

PersonalData = Literal["mail", "card", "ip", "phone"]
KINDS: tuple[PersonalData, ...] = get_args(PersonalData)
PLACEHOLDERS: dict[PersonalData, str] = {
    "mail": "|||EMAIL_ADDRESS|||",  # Dolma
    "card": "|||CARD_NUMBER|||",  # ours, in the same style
    "ip": "|||IP_ADDRESS|||",  # Dolma
    "phone": "|||PHONE_NUMBER|||",  # Dolma
}

# Every pattern starts with a small set of characters (a fast search) that a look-behind then
# checks, and has no open-ended repeat inside another: time grows with the text, whatever is in it.
MAIL = re.compile(
    r"[\w.%+-](?<![\w.%+-][\w.%+-])[\w.%+-]{0,63}"
    r"@(?:[A-Za-z0-9-]{1,63}\.){1,8}([A-Za-z]{2,24})(?![\w-])"
)
CARD = re.compile(
    r"[2-6](?<![\w.,+-][2-6])(?:"
    r"[0-9]{12,18}"
    r"|[0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}"
    r"|[0-9]{3}([ -])[0-9]{6}\2[0-9]{4,5}"
    r")(?![\w-]|[.,][0-9])"
)
IPV4 = re.compile(
    r"[0-9](?<![\w.,-][0-9])[0-9]{0,2}(?:\.[0-9]{1,3}){3}"
    r"(?![\w-]|\.\w|/[0-9]{1,2}(?![\w/]))"  # a network (/24) is nobody's
)
IPV6 = re.compile(  # public addresses begin with 2 or 3: IANA has given out 2000::/3 only
    r"[23](?<![\w:.][23])[0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}"
    r"(?![\w:]|\.\w|/[0-9]{1,3}(?![\w/]))"  # a network is nobody's
)
PHONE = re.compile(
    r"[+(0-9](?<![\w.,+/:=#$-][+(0-9])(?:"
    r"(?<=\+)[1-9](?:[0-9]{7,14}|[0-9]{0,2}(?:[ .()/-]{1,2}[0-9]{1,5}){2,6})"  # +33 1 23 ...
    r"|(?<=\()[2-9][0-9]{2}\)[ -]?[2-9][0-9]{2}[ .-][0-9]{4}"  # (212) 736-5000
    r"|(?:(?<=1)([-.])[2-9]|(?<=[2-9]))[0-9]{2}([-.])[2-9][0-9]{2}\2[0-9]{4}"  # 212-736-5000
    r"|(?<=0)[1-9](?:([ .-])[0-9]{2})(?:\3[0-9]{2}){3}"  # 01 23 45 67 89, as in France
    r")(?![\w]|[-.,/][0-9])"
)
NUMBER = re.compile(r"[0-9][0-9 .()/-]{5,}[0-9]")  # what all but mail and IPv6 have in them
NO_ADDRESS = re.compile(
    r"(?:(?<![a-z])(?:versions?|v\.?|ver\.?|release|section|chapter|clause|rule)|§)[\s:]*$", re.I
)
NO_PHONE = re.compile(r"(?<![a-z])(?:isbn|issn|doi)(?![a-z])", re.I)
FICTION = re.compile(r"555.?01[0-9]{2}$")  # North American numbers set apart for films
RESERVED_NAMES = {"example", "test", "invalid", "localhost", "local"}  # RFC 2606, 6762
CARD_PREFIX = re.compile(  # ISO/IEC 7812: what the issuers' numbers begin with, and their lengths
    r"4(?:.{12}|.{15}|.{18})|5[1-5].{14}|2(?:22[1-9]|2[3-9].|[3-6]..|7[01].|720).{12}|3[47].{13}"
    r"|3(?:0[0-5]|[68].).{11}|35(?:2[89]|[3-8].).{12}|6(?:011|5..|4[4-9].).{12}|62.{14,17}"
)
CONTEXT = 24  # characters before a number that may say what it is


def mask_personal_data(document: Document, *, kinds: tuple[PersonalData, ...]) -> Document:
    """Replace personal data by placeholders and note in meta how many of each kind."""
    text, counts = mask(document.text, kinds)
    if not counts:
        return document
    return replace(document, text=text, meta=document.meta | {"masked": counts})


def mask(text: str, kinds: tuple[PersonalData, ...] = KINDS) -> tuple[str, dict[str, int]]:
    """Return a text without personal data of these kinds, and what was replaced, by kind."""
    counts: Counter[str] = Counter()
    numbers = NUMBER.search(text) is not None
    for kind, pattern, personal, worth_trying in (
        ("mail", MAIL, _is_mail, "@" in text),
        ("card", CARD, _is_card, numbers),
        ("ip", IPV6, _is_ip, ":" in text),
        ("ip", IPV4, _is_ip, numbers),
        ("phone", PHONE, _is_phone, numbers),
    ):
        if worth_trying and kind in kinds:
            masked = partial(_replaced, kind=kind, personal=personal, counts=counts)
            text = pattern.sub(masked, text)
    return text, dict(sorted(counts.items()))


def _replaced(
    match: re.Match[str],
    kind: PersonalData,
    personal: Callable[[re.Match[str]], bool],
    counts: Counter[str],
) -> str:
    if not personal(match):
        return match[0]
    counts[kind] += 1
    return PLACEHOLDERS[kind]


def _is_mail(match: re.Match[str]) -> bool:
    """Tell whether the domain can exist (icon@2x.png, getty@tty1.service) and is no example."""
    found = EXTRACT(match[0].partition("@")[2])
    return bool(found.suffix and found.domain) and found.domain not in RESERVED_NAMES


def _is_card(match: re.Match[str]) -> bool:
    """Tell whether a number has an issuer's prefix and length and a right check digit (Luhn)."""
    digits = match[0].replace(" ", "").replace("-", "")
    if not CARD_PREFIX.fullmatch(digits):
        return False
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (doubled + sum(map(int, digits[-1::-2]))) % 10 == 0


def _is_ip(match: re.Match[str]) -> bool:
    """Tell whether an address is public, and no number of a version or a section."""
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return False
    if address.version == 4 and (max(address.packed) < 20 or NO_ADDRESS.search(_before(match))):
        return False
    return address.is_global and not address.is_multicast


def _is_phone(match: re.Match[str]) -> bool:
    """Tell whether a number has as many digits as phones have, and nothing says otherwise."""
    digits = sum(map(str.isdigit, match[0]))
    if not 8 <= digits <= 15:  # ITU-T E.164: 15 at most
        return False
    return not FICTION.search(match[0]) and not NO_PHONE.search(_before(match))


def _before(match: re.Match[str]) -> str:
    """Return the few characters before a match."""
    return match.string[max(match.start() - CONTEXT, 0) : match.start()]
