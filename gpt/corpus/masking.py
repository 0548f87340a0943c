"""Personal data in texts, with others in its place: e-mail addresses, public IP addresses, telephone numbers.

The first two are found by the expressions of datatrove's PIIFormatter, with its replacements. Its counter goes on from document to
document, which would make a text depend on those before it; here each text begins with the first one.
"""

import re
from collections.abc import Iterator
from functools import cache
from itertools import cycle
from typing import Any

KINDS = ("email", "ip", "phone")
# No one has these: NANP keeps 555-0100 to 555-0199 for fiction.
_PHONES = ("+1-202-555-0117", "+1-202-555-0168", "+1-202-555-0143")
_MOST_BEFORE_AT, _MOST_AFTER_AT = 64, 256  # characters of an address, by RFC 5321: else long lines would take for ever

# Country codes of ITU-T E.164, and 8 to 15 digits in all.
_CODES = (
    r"1|7|2(?:0|7|[1-69][0-9])|3(?:[0-469]|[578][0-9])|4(?:[013-9]|2[0-9])|5(?:[1-8]|[09][0-9])|6(?:[0-6]|[789][0-9])"
    r"|8(?:[1246]|[058][0-9])|9(?:[0-58]|[679][0-9])"
)
_GROUPS = r"(?:[ .\-/]?(?:\([0-9]{1,5}\)|[0-9])){%s,%s}"
_ALONE_BEFORE, _ALONE_AFTER = r"(?<![\w+])(?<![0-9][.,:/\-])", r"(?!\w)(?![.,:/\-][0-9])"
_NAMED = "|".join(
    rf"(?<=\b{word}{mark} )"
    for word in ("[Tt]el", "[Tt]elephone", "[Tt]elefon", "[Pp]hone", "[Mm]obile", "[Ff]ax")
    for mark in (":", r"\.", r"\.:")
)
_PHONE = re.compile(
    "|".join(
        (
            # +44 20 7946 0958, +49 (0)30 1234567
            rf"(?<![\w+])(?<![0-9] )\+(?:{_CODES}){_GROUPS % (7, 13)}{_ALONE_AFTER}",
            # (212) 555-0123, 212-555-0123, 1-800-555-0199
            rf"{_ALONE_BEFORE}(?:1[ .\-])?(?:\([2-9][0-9]{{2}}\) ?|[2-9][0-9]{{2}}[.\-])[2-9][0-9]{{2}}[.\-][0-9]{{4}}"
            rf"{_ALONE_AFTER}",
            # 01 23 45 67 89
            rf"{_ALONE_BEFORE}(?<![0-9a-fA-F]{{2}} )0[1-9](?:(?: [0-9]{{2}}){{4}}|(?:\.[0-9]{{2}}){{4}}){_ALONE_AFTER}"
            r"(?! [0-9a-fA-F]{2}\b)",
            # 020 7946 0958, 0113 496 0123, 07700 900123, 01632 960123
            rf"{_ALONE_BEFORE}\(?0(?:2[0-9]\)? [0-9]{{4}} [0-9]{{4}}|1[0-9][0-9]\)? [0-9]{{3}} [0-9]{{4}}){_ALONE_AFTER}",
            rf"{_ALONE_BEFORE}\(?0(?:7[0-9]{{3}} [0-9]{{6}}|1[0-9]{{3}}\)? [0-9]{{6}}){_ALONE_AFTER}",
            # 0170/1234567, 089-12345678, (030) 1234567
            rf"{_ALONE_BEFORE}(?:0[1-9][0-9]{{1,3}}[/\-][0-9]{{7,8}}|\(0[1-9][0-9]{{1,4}}\) ?[0-9]{{5,8}}){_ALONE_AFTER}",
            # Tel.: 123 45 67
            rf"(?:{_NAMED})[0-9]{_GROUPS % (5, 13)}{_ALONE_AFTER}",
        )
    )
)

# Where one may be, which is found a hundred times sooner: digits and what may stand between them.
_RUN = re.compile(r"[0-9][0-9 ().\-/]{5,}")
_FOUR_NUMBERS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_BEFORE_RUN, _AFTER_RUN = 2, 6  # characters around it that an expression looks at: "+(" and what must not follow


def mask_text(text: str) -> tuple[str, dict[str, int]]:
    """Return a text with others in the place of its personal data, and how many of each kind of `KINDS` were there."""
    counts: dict[str, int] = dict.fromkeys(KINDS, 0)
    emails, addresses = _replacers()
    if "@" in text:
        text, counts["email"] = _replace(text, _find_emails(text, emails.regex), emails.replacements)
    if "." in text:
        text, counts["ip"] = _replace(text, _find_addresses(text, addresses), addresses.replacements)
    text, counts["phone"] = _replace(text, _find_phones(text), _PHONES)
    return text, counts


@cache
def _replacers() -> tuple[Any, Any]:
    from datatrove.pipeline.formatters.pii import PIIFormatter

    formatter = PIIFormatter()
    return formatter.emails_replacer, formatter.ip_replacer


def _replace(text: str, found: Iterator[re.Match[str]], replacements: tuple[str, ...]) -> tuple[str, int]:
    parts, end, count = list[str](), 0, 0
    for match, replacement in zip(found, cycle(replacements), strict=False):
        parts += text[end : match.start()], replacement
        end, count = match.end(), count + 1
    return ("".join([*parts, text[end:]]), count) if count else (text, 0)


def _find_emails(text: str, regex: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Yield the addresses around each @; a name's version, as of lodash@4.17.21, is none."""
    end = 0
    while (at := text.find("@", end)) >= 0:
        match = regex.search(text, max(end, at - _MOST_BEFORE_AT), at + _MOST_AFTER_AT)
        if match is None or match.start() > at:
            end = at + 1
            continue
        end = match.end()
        if not match[0].rpartition(".")[2].isdigit():
            yield match


def _find_addresses(text: str, replacer: Any) -> Iterator[re.Match[str]]:
    """Yield public addresses of the Internet that are no part of a longer number or word."""
    for match in _FOUR_NUMBERS.finditer(text):
        before, after = text[max(0, match.start() - 1) : match.start()], text[match.end() : match.end() + 2]
        is_part = before.isalnum() or before == "." or after[:1].isalnum() or (after[:1] == "." and after[1:].isdigit())
        if not is_part and replacer.regex.fullmatch(match[0]) and replacer.validator(match[0]):
            yield match


def _find_phones(text: str) -> Iterator[re.Match[str]]:
    end = 0
    for run in _RUN.finditer(text):
        start, stop = max(end, run.start() - _BEFORE_RUN), run.end() + _AFTER_RUN
        while match := _PHONE.search(text, start, stop):
            start = end = match.end()
            if match[0] not in _PHONES:
                yield match
