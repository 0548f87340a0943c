"""Web pages to the text that they show: HTML files, and what WARC files hold."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from gpt.corpus.reading.fields import Record
from gpt.corpus.reading.streams import Fault, open_stream
from gpt.corpus.reading.texts import too_long
from gpt.params.corpus import Read


def read_html(path: Path, settings: Read, limit: int) -> Iterator[Record | Fault]:
    """Yield the visible text of a page, in UTF-8 or another encoding that can be told."""
    with open_stream(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        yield too_long(1, limit)
    elif data:
        try:
            yield Record(1, visible_text(decode_page(data)), {})
        except Fault as fault:
            fault.number = 1
            yield fault


def decode_page(data: bytes) -> str:
    """Return a page's characters; raise `Fault` not_utf8 if its encoding cannot be told."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        import cchardet

        try:
            return data.decode(cchardet.detect(data)["encoding"] or "ascii")
        except (UnicodeDecodeError, LookupError):
            raise Fault("not_utf8", "neither UTF-8 nor another encoding that can be told") from None


def visible_text(html: str) -> str:
    """Return the main text of a page, nothing if it has none; raise `Fault` html for what the parser gives up on."""
    # Not in a process with a time limit, as datatrove runs it: what comes out must not depend on the machine's speed.
    try:
        return _extractor().extract(html) or ""
    except MemoryError:  # this machine's fault, not the page's
        raise
    except Exception as error:  # lxml and trafilatura document none
        raise Fault("html", f"its HTML cannot be read ({type(error).__name__}: {error})") from None


@cache
def _extractor() -> Any:
    from datatrove.pipeline.extractors.trafilatura import Trafilatura

    # deduplicate drops what pages read before by the same process had: another result for another number of workers.
    return Trafilatura(deduplicate=False)
