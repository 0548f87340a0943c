"""Text in one clean form: the second step of the data pipeline.

The rules are ftfy's; what is decided here is which of them run.
"""

import re
import unicodedata
from functools import cache
from typing import Any

from datatrove.pipeline.base import PipelineStep

from gpt.params import corpus as params

# Of Cc all but tab and line feed, and with them what ftfy counts as such: marks of byte order, deprecated Arabic shaping
# (U+206A…), annotations and objects (U+FFF9…). Joiners and direction marks stay: scripts need them.
_CONTROLS: dict[int, str] = dict.fromkeys(
    [*range(9), *range(0x0B, 0x20), *range(0x7F, 0xA0), *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)], ""
)
# Page breaks and other line ends of Unicode become line feeds: without them words would grow together.
_CONTROLS.update(dict.fromkeys([0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x85], "\n"))
_CONTROL = re.compile(f"[{''.join(map(chr, _CONTROLS))}]")


def clean_text(text: str, settings: params.Clean) -> str:
    """Return text with plain line ends, as composed Unicode (NFC), repaired and without control characters if asked."""
    if not text.isascii():
        text = _without_lone_surrogates(text)
    if settings.repair_unicode:
        text = _repair(text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # after the repair: &#13; is one
    if settings.remove_control_characters:
        text = _without_controls(text)
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _without_lone_surrogates(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _without_controls(text: str) -> str:
    from ftfy.fixes import remove_terminal_escapes

    text = remove_terminal_escapes(text)
    if text.isascii():  # translate is five times as fast as the expression for ASCII, and twenty times slower else
        return text.translate(_CONTROLS)
    return _CONTROL.sub(lambda match: _CONTROLS[ord(match[0])], text)


def _repair(text: str) -> str:
    """Return what ftfy makes of text, calling it only for lines that it could change.

    It works line by line, at 2 to 10 MB/s, and of a line in ASCII it can only resolve HTML's &entities; so it leaves
    most of an English text alone. It stops resolving them where it sees a tag.
    """
    if text.isascii() and "&" not in text:
        return text
    with_entities, without = _formatters()
    formatter = with_entities
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    for index, line in enumerate(lines):
        if "<" in line:
            formatter = without
        if not line.isascii() or ("&" in line and formatter is with_entities):
            lines[index] = formatter.format(line)
    return "".join(lines)


@cache
def _formatters() -> tuple[Any, Any]:
    from datatrove.pipeline.formatters.ftfy import FTFYFormatter

    # Control characters have a setting of their own.
    options: dict[str, Any] = {"remove_terminal_escapes": False, "remove_control_chars": False}
    return FTFYFormatter(**options), FTFYFormatter(unescape_html=False, **options)


class Clean(PipelineStep):
    """Clean the text of documents and leave out those that have none then."""

    type = "CLEAN"
    name = "unicode"

    def __init__(self, settings: params.Clean) -> None:
        super().__init__()
        self.settings = settings
        self.empty = 0
        "Documents that had nothing but what was taken out."

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        for document in data:
            document.text = clean_text(document.text, self.settings)
            if document.text and not document.text.isspace():
                yield document
            else:
                self.empty += 1

    def report(self) -> dict[str, Any]:
        """Return the counts as plain JSON."""
        return {"empty": self.empty}
