"""Text in one clean form: the second step of the data pipeline.

The rules are ftfy's; what is decided here is which of them run. A rule runs if it mends what went wrong on the way from the
author to us, not if it changes how the author wrote: a model should know both “ and ", and code must stay the code that it was.
"""

import re
import unicodedata
from collections import Counter
from functools import cache, partial
from typing import Any

from datatrove.pipeline.base import PipelineStep

from gpt.corpus.masking import mask_text
from gpt.corpus.sampling.sample import Sample, describe
from gpt.params import corpus as params

# Of Cc all but tab and line feed, and with them what ftfy counts as such: marks of byte order, deprecated Arabic shaping
# (U+206A…), annotations and objects (U+FFF9…). Joiners and direction marks stay: scripts and emoji need them.
_CONTROLS: dict[int, str] = dict.fromkeys(
    [*range(9), *range(0x0B, 0x20), *range(0x7F, 0xA0), *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)], ""
)
# Page breaks and other line ends of Unicode become line feeds: without them words would grow together.
_CONTROLS.update(dict.fromkeys([0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x85], "\n"))
_CONTROL = re.compile(f"[{''.join(map(chr, _CONTROLS))}]")


def clean_text(text: str, settings: params.Clean) -> str:
    """Return text with plain line ends, as composed Unicode (NFC), and unescaped, repaired, without controls if asked."""
    if not text.isascii():
        text = _without_lone_surrogates(text)
    if settings.unescape_html and "&" in text:
        text = _unescape(text)
    if settings.repair_unicode and not text.isascii():
        text = _repair(text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # after the entities: &#13; is one
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


def _unescape(text: str) -> str:
    """Return text with its entities resolved once, as a browser would: &amp;lt; is the text &lt;.

    Unlike Python's own `html.unescape` this leaves alone what has no semicolon, such as ?a=1&copy=2.
    """
    from ftfy.fixes import unescape_html

    return unescape_html(text)


def _repair(text: str) -> str:
    """Return what ftfy makes of text, calling it only for lines that it could change: it does 2 to 10 MB/s.

    It works line by line, and with these rules changes no ASCII.
    """
    from ftfy import fix_text

    config = _rules()
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return "".join(line if line.isascii() else fix_text(line, config) for line in lines)


@cache
def _rules() -> Any:
    from ftfy import TextFixerConfig

    return TextFixerConfig(
        fix_encoding=True,  # UTF-8 that was read as another encoding: naÃ¯ve. What the repair is for
        restore_byte_a0=True,  # the same, where a no-break space has become a space since: "Ã la" for "à la"
        replace_lossy_sequences=True,  # the same, where a byte was lost: one � for the rest, which says nothing
        decode_inconsistent_utf8=True,  # the same, in a line that also has sound text
        fix_c1_controls=True,  # U+0080–U+009F as Windows-1252, like HTML5: dashes and quotes, which would go as controls
        unescape_html=False,  # in code and in text about HTML an entity is what its author meant: clean.unescape_html
        fix_latin_ligatures=False,  # ﬁ is how PDFs set it and how text about type writes it
        fix_character_width=False,  # full-width ，and ！ are right in Chinese and Japanese
        uncurl_quotes=False,  # “ and ’ are how people write
        fix_line_breaks=False,  # U+2028 is a character of JSON and JavaScript; CRLF and CR are dealt with above
        fix_surrogates=False,  # dealt with above, also without repair
        remove_terminal_escapes=False,  # clean.remove_control_characters
        remove_control_chars=False,  # the same
        normalization=None,  # NFC at the end, also without repair; NFKC would make 10³ a 103
    )


class Clean(PipelineStep):
    """Clean the text of documents, as is said for their source, and leave out those that have none then.

    Source code is not cleaned; personal data is masked in it too, if that is asked for.
    """

    type = "CLEAN"
    name = "unicode"

    def __init__(self, settings: params.Prepare) -> None:
        super().__init__()
        self._settings = settings
        self._by_source = {source: settings.of(source).clean for source in settings.by_source}
        self.empty = 0
        "Documents that had nothing but what was taken out."
        self.masked = Counter[str]()
        "Pieces of personal data, by kind."
        self.sample = Sample()
        "Empty ones, at random."

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        for document in data:
            settings = self._by_source.get(document.metadata["source"], self._settings.clean)
            text = document.text
            if not document.metadata["is_code"]:
                document.text = clean_text(document.text, settings)
            if settings.mask_personal_data:
                document.metadata["is_masked"] = True
                document.text, counts = mask_text(document.text)
                self.masked.update(counts)
            if document.text and not document.text.isspace():
                document.metadata["steps"].append(("clean", document.text))
                yield document
            else:
                self.empty += 1
                self.sample.add(document.metadata["source"], "empty", document.id, partial(describe, document, text))

    def report(self) -> dict[str, Any]:
        """Return the counts as plain JSON."""
        return {"empty": self.empty, "masked": dict(self.masked)}
