"""Filters by what a document's fields say: a number, a word, an address in a list."""

import math
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from gpt.errors import UserError
from gpt.params.filters import FieldFilter, UrlList

_SCHEME = "://"


class FieldRule(BaseFilter):
    """Keep documents whose field is as the conditions say."""

    name = "field"

    def __init__(self, settings: FieldFilter) -> None:
        super().__init__()
        self.name, self._settings = settings.field, settings
        equals = None if settings.equals is None else (settings.equals,)
        self._wanted = [{_word(value) for value in each} for each in (equals, settings.one_of) if each]

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Tell whether the field is as wanted; raise `UserError` if it is no number where one is compared."""
        settings = self._settings
        value = doc.metadata["fields"].get(settings.field)
        if value is None:
            return False, "none"
        if settings.at_least is not None or settings.at_most is not None:
            number = self._number(value, doc.id)
            if settings.at_least is not None and number < settings.at_least:
                return False, f"below {settings.at_least:g}"
            if settings.at_most is not None and number > settings.at_most:
                return False, f"above {settings.at_most:g}"
        words = {_word(each) for each in (value if isinstance(value, list) else [value])}
        if any(words.isdisjoint(wanted) for wanted in self._wanted):
            return False, "another"
        return True

    def _number(self, value: Any, document: str) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isnan(number):
            raise UserError(
                f"params.yaml: prepare.filters: field {self.name}: document {document} has {value!r}, which is no number;"
                " compare it with equals or one_of, or correct the source"
            )
        return number


def _word(value: Any) -> str:
    """Return a value as a table that knows only text has it: 3 and "3" are the same, true and "true" too."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and value.is_integer() else str(value)


class BlockedUrls(BaseFilter):
    """Drop documents whose address is in a list."""

    name = "url_list"

    def __init__(self, settings: UrlList) -> None:
        super().__init__()
        self._settings = settings

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Tell whether the address is in no entry; the reason is whether one names its host or the address itself."""
        value = doc.metadata["fields"].get(self._settings.field)
        if not isinstance(value, str) or not value.strip():
            return True
        hosts, addresses = _read_list(self._settings.url_list)
        host, path = _parts(value)
        named = host.removeprefix("www.")
        labels = host.split(".")
        if any(".".join(labels[start:]) in hosts for start in range(len(labels))):
            return False, "host"
        pieces = path.split("/")
        if any((named, "/".join(pieces[:end])) in addresses for end in range(1, len(pieces) + 1)):
            return False, "address"
        return True


@cache
def _read_list(file: str) -> tuple[frozenset[str], frozenset[tuple[str, str]]]:
    """Return the hosts of a list, and its addresses as (host, path); read in the process that filters."""
    hosts, addresses = set[str](), set[tuple[str, str]]()
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"params.yaml: prepare.filters: url_list {file}: cannot be read ({error})") from None
    for line in lines:
        entry = line.partition("#")[0].strip()
        if entry:
            host, path = _parts(entry)
            if path:
                addresses.add((host.removeprefix("www."), path))
            else:
                hosts.add(host)
    return frozenset(hosts), frozenset(addresses)


def _parts(address: str) -> tuple[str, str]:
    """Return host and path of an address, without scheme, login, port, query and the last slash."""
    try:
        split = urlsplit(address if _SCHEME in address else f"//{address}")
        host = (split.hostname or "").rstrip(".")
    except ValueError:  # as of [brackets]: no address, so it is in no list
        return "", ""
    return host, split.path.strip("/")
