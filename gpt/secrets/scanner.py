"""Finds what looks like a secret in a file that is about to leave this machine, by the rules of gpt/secrets/hiding.py.

A finding says the file, the line and the kind: never the secret. Better one missed than an honest file refused: in code
only literal values count that nobody would write as an example.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from gpt.errors import UserError
from gpt.secrets.hiding import (
    ASSIGNMENTS,
    BEARER,
    ENCODED_URI_PASSWORD,
    HEADER,
    HIDDEN,
    QUERY,
    TOKENS,
    URI_PASSWORD,
    URI_TOKEN,
    environment_secrets,
)

ALLOWED = ("gitleaks:allow", "pragma: allowlist secret")
"Comments that common scanners know too: a line with one of them holds no secret, says a person."

# What stands in a password's place in documentation, templates, code and tests.
_EXAMPLE = re.compile(
    r"x-oauth-basic|[*x.…]+|.*[{}\[\]()<>$\\|^`…].*|.*%[sdr].*"
    r"|(?:my|your|the|a|some)?[_-]?(?:pass|passwd|password|pwd|pw|p|secret|token|key|hidden|redacted|test|user)[0-9]{0,3}"
    r"|.*(?:example|xxxx|1234567|abcdef|your|dummy|changeme|fake).*",
    re.IGNORECASE,
)
_DUMMY = re.compile(r"example|xxxx|dummy|fake", re.IGNORECASE)
_CODE = re.compile(r"\w+(?:\.[A-Za-z_]|\()")
_NAME = re.compile(r'(?:---|\+\+\+) "?[ab]/([^\t"]+)')
_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")
_SHOWN = 20  # findings, before the rest is a number


class Finding(NamedTuple):
    """A line, counted from 1, that seems to hold a secret, and what kind of secret."""

    file: str
    line: int
    kind: str

    def __str__(self) -> str:
        return f"{self.file}: line {self.line} seems to hold {self.kind}"


def refuse(findings: list[Finding], what_to_do: str) -> None:
    """Raise `UserError` that names every finding and says what to do, if there are any."""
    if findings:
        left = len(findings) - _SHOWN
        more = [f"and {left} more lines"] if left > 0 else []
        mark = f"a line that holds none may say so in a comment: {ALLOWED[0]}"
        raise UserError("\n".join([*map(str, findings[:_SHOWN]), *more, f"{what_to_do}; {mark}"]))


def find_in_settings(file: str, text: str) -> list[Finding]:
    """Return the lines of a file of settings that seem to hold a secret: there, every password in an address is one."""
    return list(_find(file, enumerate(text.splitlines(), start=1), settings=True))


def find_in_text(file: str, text: str) -> list[Finding]:
    """Return the lines of code, or of any other text, that seem to hold a secret."""
    return list(_find(file, enumerate(text.splitlines(), start=1), settings=False))


def find_in_data(file: str, text: str) -> list[Finding]:
    """Return the lines of a text of other people that hold a token of a known form, or the value of a secret variable here."""
    known = sorted(environment_secrets())
    lines = enumerate(text.splitlines(), 1)
    return [Finding(file, number, kind) for number, line in lines if (kind := _kind_of_token(line, known, False))]


def find_in_patch(patch: bytes) -> list[Finding]:
    """Return the lines of files in a patch of git's that seem to hold a secret.

    Lines that the patch removes are uploaded with it too. They have their number in the file before.
    """
    findings: list[Finding] = []
    for file, lines in _files_of_patch(patch.decode(errors="replace")):
        findings += _find(file, iter(lines), settings=False)
    return findings


def _files_of_patch(patch: str) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Yield each file's name with its numbered lines; what is binary has none."""
    for part in re.split(r"^diff --git ", patch, flags=re.MULTILINE)[1:]:
        name, *rest = part.split("\n")
        lines: list[tuple[int, str]] = []
        old = new = 0
        for line in rest:
            if line.startswith("GIT binary patch"):
                break
            if not new and not old and (named := _NAME.match(line)):  # of both files; the second is the newer one
                name = named[1]
            if hunk := _HUNK.match(line):
                old, new = int(hunk[1]), int(hunk[2])
            elif old or new:
                lines.append((old if line.startswith("-") else new, line[1:]))
                old += not line.startswith("+")
                new += not line.startswith("-")
        yield name, lines


def _find(file: str, lines: Iterator[tuple[int, str]], *, settings: bool) -> Iterator[Finding]:
    known = sorted(environment_secrets())
    for number, line in lines:
        if not any(mark in line for mark in ALLOWED) and (kind := _kind_of_secret(line, known, settings)):
            yield Finding(file, number, kind)


def _kind_of_token(line: str, known: list[tuple[str, str]], settings: bool) -> str | None:
    for name, value in known:
        if len(value) >= 8 and not value.isalpha() and value in line:
            return f"the value of {name}"
    for kind, rule in TOKENS.items():
        if any(settings or not _DUMMY.search(found["secret"]) for found in rule.finditer(line)):
            return kind
    return None


def _kind_of_secret(line: str, known: list[tuple[str, str]], settings: bool) -> str | None:
    if kind := _kind_of_token(line, known, settings):
        return kind
    for kind, rules, shortest in (
        ("a password in an address", (URI_PASSWORD, ENCODED_URI_PASSWORD), 1),
        ("a token in an address", (URI_TOKEN,), 1),
        ("a key in an address", (QUERY,), 8),
    ):
        for rule in rules:
            if any(_is_literal(found, settings) and len(found["secret"]) >= shortest for found in rule.finditer(line)):
                return kind
    if any(_looks_random(found["secret"], 12) for rule in (HEADER, BEARER) for found in rule.finditer(line)):
        return "an Authorization header"
    for rule in ASSIGNMENTS:
        for found in rule.finditer(line):
            quoted = settings or found.groupdict().get("quote")
            if not quoted and _CODE.match(found["secret"]):
                continue
            if _looks_random(found["secret"], 6 if settings else 8 if quoted else 16):
                return "a password or key"
    return None


def _is_example(value: str) -> bool:
    return _EXAMPLE.fullmatch(value) is not None


def _is_literal(found: re.Match[str], settings: bool) -> bool:
    """Whether a password of an address is one: in settings whatever is no variable, in code what is no example."""
    value = found["secret"]
    if settings:
        return value != HIDDEN and not re.fullmatch(r"\$\{?\w+\}?|<[^<>]*>", value)
    user = found.groupdict().get("user") or ""
    return len(value) >= 4 and not _is_example(value) and value != user and not re.search(r"[^\w.%+~\-]", user)


def _looks_random(value: str, shortest: int) -> bool:
    """Whether a literal value is none that a person would write as an example: long, of letters and digits, no code."""
    return (
        len(value) >= shortest
        and re.search(r"\d", value) is not None
        and re.search(r"[A-Za-z]", value) is not None
        and not re.search(r"\s", value)
        and not _is_example(value)
        and len(set(value)) >= 6
    )
