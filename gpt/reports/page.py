"""Pieces of a web page that needs nothing else: tables, quotations, the page around them.

What stands on it comes from anywhere, so every text is escaped, and the page allows no script and fetches nothing.
"""

import math
import re
import unicodedata
from html import escape
from typing import Any

_SHOWN_CHARACTERS = 300
_HASH_DIGITS = 12
_NUMBER = re.compile(r"[-+±.,% 0-9]*(e[-+][0-9]+)?")
NONE = "<p>none</p>\n"


class Markup(str):
    """What is HTML already."""


def render(title: str, summary: str, sections: dict[str, str]) -> str:
    """Return a page with sections of HTML, each under its heading."""
    body = "".join(
        f"<section><h2>{escape_text(name)}</h2>\n{content}</section>\n" for name, content in sections.items()
    )
    return _PAGE.format(title=escape_text(title), summary=summary, body=body)


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Return a table; numbers stand on the right. One without rows is the word "none"."""
    if not rows:
        return NONE
    kinds = [' class="number"' if all(map(_is_number, column)) else "" for column in zip(*rows, strict=True)]
    lines = [
        "<tr>"
        + "".join(f'<th scope="col"{kind}>{escape_text(name)}</th>' for name, kind in zip(head, kinds, strict=True))
        + "</tr>"
    ]
    lines += [
        "<tr>" + "".join(f"<td{kind}>{_cell(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    ]
    return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>\n"


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, Markup) else escape_text(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) or bool(_NUMBER.fullmatch(value))


def escape_text(value: str) -> str:
    """Return a text that cannot act on the page: no markup, nothing invisible that steers what stands beside it."""
    return escape(visible(value))


def visible(value: str) -> str:
    """Return a text with control characters and the like as the escapes that name them."""
    return "".join(
        letter if letter in "\n\t" or unicodedata.category(letter)[0] != "C" else f"\\u{ord(letter):04x}"
        for letter in value
    )


def quote(text: str) -> Markup:
    """Return the beginning of a text, with its line ends."""
    shown = text[:_SHOWN_CHARACTERS] + ("…" if len(text) >= _SHOWN_CHARACTERS else "")  # reports cut at as many
    return Markup(f"<q>{escape_text(shown)}</q>")


def short_hash(digest: str) -> Markup:
    """Return the first digits of a hash; all of them show where a pointer rests."""
    return Markup(f'<code title="{escape_text(digest)}">{escape_text(digest[:_HASH_DIGITS])}</code>')


def percent(part: int, whole: int) -> str:
    """Return a part of a whole in per cent, nothing if there is no whole."""
    return f"{100 * part / whole:.2f} %" if whole else ""


def shares_of(parts: list[int], whole: int) -> list[str]:
    """Return the parts of a whole in per cent, so rounded that they add up as the parts do (largest remainders)."""
    if not whole:
        return [""] * len(parts)
    exact = [10_000 * part / whole for part in parts]
    rounded = [math.floor(share) for share in exact]
    missing = round(sum(exact)) - sum(rounded)
    for place in sorted(range(len(parts)), key=lambda place: rounded[place] - exact[place])[:missing]:
        rounded[place] += 1
    return [f"{share / 100:.2f} %" for share in rounded]


def pictures_in_a_row(*pictures: str) -> str:
    """Return pictures beside each other, or under each other where there is no room."""
    return '<div class="pictures">' + "".join(f"<figure>{picture}</figure>" for picture in pictures) + "</div>\n"


def captioned(picture: str, title: str, text: str = "") -> Markup:
    """Return a picture under its title, with a sentence on how to read it."""
    return Markup(f"<figcaption><b>{escape_text(title)}</b> {escape_text(text)}</figcaption>{picture}")


def note(text: str) -> Markup:
    """Return a paragraph that explains."""
    return Markup(f'<p class="note">{escape_text(text)}</p>\n')


def folded(summary: str, content: str) -> str:
    """Return content that opens at a click; nothing if there is none."""
    return f"<details><summary>{escape_text(summary)}</summary>\n{content}</details>\n" if content else ""


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1b2127; --page: #fff; --line: #d8dde2; --soft: #f3f5f7; --dim: #5a6570;
  --prompt: #00568a; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e3e7eb; --page: #14181c; --line: #38414a; --soft: #1d2329; --dim: #9aa5b0;
    --prompt: #56b4e9; }}
}}
body {{ margin: 0 auto; max-width: 66rem; padding: 1rem; font: 15px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--page); overflow-wrap: break-word; }}
h1 {{ font-size: 1.7rem; margin: .5rem 0; }}
h2 {{ font-size: 1.2rem; margin: 2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }}
h3 {{ font-size: 1rem; margin: 1.2rem 0 .4rem; }}
.facts {{ display: flex; flex-wrap: wrap; gap: .6rem; margin-bottom: .6rem; }}
.facts div {{ background: var(--soft); border-radius: .4rem; padding: .4rem .8rem; color: var(--dim); }}
.facts b {{ display: block; font-size: 1.25rem; color: var(--ink); }}
.scroll {{ overflow-x: auto; margin-bottom: .6rem; }}
table {{ border-collapse: collapse; font-size: .87rem; }}
th, td {{ text-align: left; vertical-align: top; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid var(--line); }}
th {{ color: var(--dim); font-weight: 600; }}
td {{ min-width: 3rem; }}
.number {{ padding-right: .7rem; min-width: 2.6rem; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
th {{ vertical-align: bottom; }}
th.number {{ white-space: normal; }}
q {{ quotes: none; white-space: pre-wrap; display: block; min-width: 14rem; max-width: 34rem;
  overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: .8rem; }}
code {{ font-family: ui-monospace, monospace; font-size: .85em; }}
.whole {{ overflow-wrap: anywhere; }}
.pictures {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
.note, figcaption {{ color: var(--dim); font-size: .87rem; margin: .3rem 0; max-width: 48rem; }}
figcaption b {{ color: var(--ink); }}
summary {{ cursor: pointer; font-size: .87rem; margin: .4rem 0; }}
.facts small {{ display: block; }}
td q {{ max-width: 30rem; }}
q b {{ color: var(--prompt); font-weight: 600; }}
.verdict {{ font-weight: 600; white-space: nowrap; }}
svg.attention {{ max-width: none; }}
figure {{ margin: 0 0 .5rem; flex: 1 1 24rem; max-width: 32rem; min-width: 0; }}
svg {{ display: block; width: 100%; height: auto; }}
</style>
</head>
<body>
<h1>{title}</h1>
{summary}
{body}</body>
</html>
"""
