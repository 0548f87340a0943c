"""Keeps passwords, tokens and keys out of what is printed, logged and stored (rule 10 of the design).

`redact` hides them in a text, `guard_output` in the log records and tracebacks of a process. What is hidden is shown as `***`.
What a secret looks like is said here once; gpt/secrets/scanner.py finds them in files by the same rules.
"""

import json
import logging
import os
import re
import sys
import threading
import traceback
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "***"

# Token forms, by the prefixes that their makers gave them so that they can be found.
_FORMS = {
    "a private key": r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[ A-Z]*-----(?:[\s\S]*?-----END [A-Z0-9 ]*KEY[ A-Z]*-----|[\s\S]*)",
    "a GitHub token": r"gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,}",
    "a GitLab token": r"gl(?:pat|dt|ptt|rt|cbt)-[A-Za-z0-9_\-]{20,}",
    "a Hugging Face token": r"(?<![A-Za-z0-9])(?:hf|api_org)_[A-Za-z0-9]{30,}",
    "an AWS access key": r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    "a Google API key": r"(?<![A-Za-z0-9])AIza[A-Za-z0-9_\-]{35}|ya29\.[A-Za-z0-9_\-]{20,}|GOCSPX-[A-Za-z0-9_\-]{20,}",
    "a Slack token": r"xox[abeoprs]-[A-Za-z0-9\-]{10,}|xapp-[A-Za-z0-9\-]{10,}|hooks\.slack\.com/services/[A-Za-z0-9/]{20,}",
    "an API key (sk-…)": r"(?<![A-Za-z0-9])[rs]k[-_](?=[A-Za-z0-9_\-]{0,200}\d)[A-Za-z0-9_\-]{20,}",
    "a JSON web token": r"(?<![A-Za-z0-9])eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*)?",
    "a Prefect API key": r"(?<![A-Za-z0-9])pn[ubt]_[A-Za-z0-9]{30,}",
    "a package registry token": r"pypi-[A-Za-z0-9_\-]{40,}|(?<![A-Za-z0-9])npm_[A-Za-z0-9]{36}",
    "a Databricks token": r"(?<![A-Za-z0-9])dapi[a-f0-9]{32}",
    "a DigitalOcean token": r"do[opr]_v1_[a-f0-9]{64}",
}
TOKENS = {kind: re.compile(f"(?P<secret>{form})") for kind, form in _FORMS.items()}

_NAME = (
    r"(?:passw(?:or)?d|passphrase|secret(?:[_-]?(?:access[_-]?)?key)?|api[_-]?key|client[_-]?secret"
    r"|(?:access|auth|bearer|id|refresh|security|session)[_-]?token"
    r"|(?:account|encryption|private|shared[_-]?access|signing)[_-]?key|sharedaccesssignature)"
)
_IN_QUERY = rf"(?:{_NAME}|pwd|pass|token|sig|signature|credential|accesskey(?:id)?|auth|jwt|key)"
# A port is no password, and in these addresses no word before an `@` is. Passwords may hold `/`, `?`, `#`, `@`, though they
# should not.
_NO_USERS = "".join(rf"(?<!{scheme})" for scheme in ("github", r"\bgit", "models", "docker", r"\boci"))
_NOT_A_PORT = r"""(?!\d{1,5}(?:[/?#\s"'`),;\]}>\\]|$))"""
URI_PASSWORD = re.compile(
    rf"""(?<=[A-Za-z0-9]){_NO_USERS}:(?://|\\/\\/)(?P<user>[^\s:/@?#\["'<>`]{{0,256}}):{_NOT_A_PORT}"""
    r"""(?P<secret>[^\s/?#"'<>]{1,2048}(?=@)|[^\s@"'<>]{1,2048}(?=@))"""
)
# A text that is an address and nothing else: quotes and spaces end none.
_WHOLE_URI_PASSWORD = re.compile(
    rf"[A-Za-z][\w+.\-]*(?<=[A-Za-z0-9]){_NO_USERS}://(?P<user>[^:/@?#\[]*):{_NOT_A_PORT}(?P<secret>[^/?#]+(?=@)|[^@]+(?=@))"
)
# `https://TOKEN@host` and `https://TOKEN:x-oauth-basic@host`.
URI_TOKEN = re.compile(
    r"https?://(?P<secret>(?=[^:@]{0,256}\d)[A-Za-z0-9_\-]{20,256})(?=(?::[^\s/@]{0,256})?@)", re.IGNORECASE
)
# The same inside another address, percent-encoded once or more.
ENCODED_URI_PASSWORD = re.compile(
    r"[a-z0-9]%(?P<depth>(?:25)*)3A(?:%(?P=depth)2F){2}(?:(?!%(?P=depth)(?:3A|2F|40))[^\s&\"'<>]){0,256}%(?P=depth)3A"
    r"(?P<secret>(?:(?!%(?P=depth)2F)[^\s&\"'<>]){1,2048})(?=%(?P=depth)40)",
    re.IGNORECASE,
)
QUERY = re.compile(
    rf"(?:[?&]|%(?:25)*(?:3F|26))[\w.\-]{{0,40}}?(?P<name>{_IN_QUERY})(?:=|%(?:25)*3D)"
    r"(?P<secret>(?:(?!%(?:25)*26)[^\s&\"'<>#])+?)(?=[;,.)\]}]{0,3}(?:[\s&\"'<>#]|%(?:25)*26|$))",
    re.IGNORECASE,
)
HEADER = re.compile(
    r"(?:authorization|x-api-key|x-auth-token|private-token|(?:set-)?cookie)[\"']?\s{0,3}[:=]\s{0,3}(?:b?[\"'])?"
    r"(?:(?:basic|bearer|digest|negotiate|token)\s{1,3})?(?P<secret>[^\r\n\"']+)",
    re.IGNORECASE,
)
BEARER = re.compile(
    r"\b(?:basic|bearer)\s{1,3}(?P<secret>(?=[A-Za-z0-9._~+/\-]{0,200}[0-9=])[A-Za-z0-9._~+/\-]{12,}=*)", re.IGNORECASE
)
_QUOTED = r"""(?P<quote>["'])(?P<secret>(?:\\.|(?!(?P=quote))[^\\\n])+)(?P=quote)"""
_VARIABLE = r"\b[A-Z][A-Z0-9_]{0,60}(?:AUTH|CREDENTIALS?|KEY|PASS|SECRET|TOKEN)"
ASSIGNMENTS = (
    re.compile(rf"""(?:{_NAME}|\bpwd)["']?\s{{0,3}}[:=]\s{{0,3}}{_QUOTED}""", re.IGNORECASE),
    re.compile(rf"""(?:{_NAME}|\bpwd)["']?\s{{0,3}}=\s{{0,3}}(?P<secret>[^\s"',;&)\]}}]+)""", re.IGNORECASE),
    re.compile(rf"""{_NAME}["']?:\s{{0,3}}(?P<secret>(?=[^\s"',;]{{0,200}}\d)[^\s"',;&)\]}}]{{6,}})""", re.IGNORECASE),
    re.compile(
        r"""\btoken["']?\s{0,3}[:=]\s{0,3}["']?(?P<secret>(?=[\w.~+/\-]{0,200}\d)[\w.~+/\-]{20,}=*)""", re.IGNORECASE
    ),
    re.compile(rf"""{_VARIABLE}["']?\s{{0,3}}[:=]\s{{0,3}}{_QUOTED}"""),
    re.compile(rf"""{_VARIABLE}=(?P<secret>[^\s"']{{6,}})"""),
)
_RULES = (
    *TOKENS.values(), URI_TOKEN, URI_PASSWORD, ENCODED_URI_PASSWORD, QUERY, HEADER, BEARER, *ASSIGNMENTS,
)  # fmt: skip

# Variables of the environment that say that they hold a secret, by one of the words of their name.
_SECRET_WORDS = re.compile(
    r"(?:^|_)(?:APIKEY|AUTH|CREDENTIALS?|KEY|PASS|PASSPHRASE|PASSWD|PASSWORD|PAT|SECRETS?|TOKEN)(?:_|$)"
    r"|PASSWORD|CONNECTION_STRING"
)
# Variables that hold an address, perhaps one without its scheme: `user:password@proxy:3128`.
_ADDRESS_WORDS = re.compile(r"(?:^|_)(?:DSN|HOST|PROXY|REMOTE|SERVER|URI|URL)$")
_BARE_PASSWORD = re.compile(r"(?P<user>[^\s:/@]+):(?P<secret>\S+)(?=@[^\s@]+$)")
_SHORTEST = 6  # characters; a shorter value is hidden in its URI, but not wherever its letters stand


def redact(text: str) -> str:
    """Return a text with `***` in the place of every secret in it.

    Hidden are passwords of URIs, secret query parameters, Authorization headers, values with a name such as `password`,
    tokens of known forms, and the values of variables of the environment whose names say that they are secret.
    """
    values = _environment_pattern(environment_secrets())
    if values is not None:
        text = values.sub(HIDDEN, text)
    for rule in _RULES:
        text = rule.sub(_hide, text)
    return text


def redact_values(value: Any) -> Any:
    """Return a JSON value with all its texts redacted; keys stay, and what a key calls a password is hidden whole."""
    match value:
        case str():
            return redact(value)
        case dict():
            return {
                key: HIDDEN
                if isinstance(entry, str) and re.fullmatch(_NAME, str(key).lower())
                else redact_values(entry)
                for key, entry in value.items()
            }
        case list() | tuple():
            return [redact_values(entry) for entry in value]
        case _:
            return value


def without_userinfo(uri: str) -> str:
    """Return an address without user and password: what a connection is tried with, and a link that opens."""
    stripped = re.sub(r"^([A-Za-z][A-Za-z0-9+.\-]*://)[^/?#]*@", r"\1", uri)
    if stripped == uri and (found := _WHOLE_URI_PASSWORD.match(uri)):  # a `/` stands in the password
        return uri[: uri.find("://") + 3] + uri[found.end() + 1 :]
    return stripped


def public_uri(uri: str) -> str:
    """Return an address as it may be shown: a web address without user and password, any other one with `***` for it."""
    return redact(without_userinfo(uri) if uri.lower().startswith(("http://", "https://")) else uri)


def guard_output() -> None:
    """Hide secrets in every log record and every traceback that this process prints from now on, whoever writes them.

    It may be called again. A hook for tracebacks that another library has set stays.
    """
    if logging.getLogRecordFactory() is logging.LogRecord:
        logging.setLogRecordFactory(RedactedRecord)
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _print_traceback
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = lambda failed: _print_traceback(
            failed.exc_type, failed.exc_value, failed.exc_traceback, failed.thread
        )


class RedactedRecord(logging.LogRecord):
    """A log record whose message and traceback show no secret, for handlers of any library."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        if self.exc_info and self.exc_info[0]:
            self.exc_text = redact("".join(traceback.format_exception(*self.exc_info))).rstrip("\n")

    def getMessage(self) -> str:  # noqa: N802 (logging's name)
        return redact(super().getMessage())


def _hide(match: re.Match[str]) -> str:
    start, end = (place - match.start() for place in match.span("secret"))
    return match[0][:start] + HIDDEN + match[0][end:]


def environment_secrets() -> frozenset[tuple[str, str]]:
    """Return (name, value) of every secret in the environment that is long enough to be told from other text."""
    return frozenset(
        (name, value)
        for name, text in os.environ.items()
        for value in _secrets_of(name, text)
        if _is_distinct(value) and value != HIDDEN
    )


@cache
def _secrets_of(name: str, text: str) -> tuple[str, ...]:
    """Return what of a variable's value is secret: all of it if its name says so, passwords and tokens of addresses."""
    found = []
    for match in filter(None, (_WHOLE_URI_PASSWORD.match(text), *URI_PASSWORD.finditer(text))):
        if match["secret"] != match["user"]:
            found += [match["secret"], unquote(match["secret"])]
    if _ADDRESS_WORDS.search(name.upper()) and "://" not in text and (bare := _BARE_PASSWORD.match(text)):
        found.append(bare["secret"])
    # `?token=…` of an address, headers and options in JSON, `password=…` of a connection string.
    for rule in (URI_TOKEN, QUERY, HEADER, BEARER, *ASSIGNMENTS):
        found += [match["secret"] for match in rule.finditer(text) if not re.search(r"[()\[\]{}<>$]", match["secret"])]
    is_address = "://" in text and not name.upper().endswith(("KEY", "PASSWORD", "SECRET", "TOKEN"))
    if _SECRET_WORDS.search(name.upper()) and not is_address and not _is_path(text):
        found.append(text)
        user, _, password = text.partition(":")  # as in PREFECT_API_AUTH_STRING
        if password and user != password and not user.startswith("{"):
            found.append(password)
    return tuple(found)


def _is_path(text: str) -> bool:
    """Whether a variable names a file, such as a key's: where a secret is, is none."""
    try:
        return text.startswith(("/", "~", ".")) and Path(text).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def _is_distinct(value: str) -> bool:
    """Whether a value cannot be a word or a number that other texts are full of."""
    if not value.strip():
        return False
    if re.fullmatch(r"[\d.:/]+", value):  # a number, a port, an address
        return value.isdecimal() and len(value) >= 10
    return len(value) >= (_SHORTEST + 2 if value.isalpha() else _SHORTEST)


@cache
def _environment_pattern(secrets: frozenset[tuple[str, str]]) -> re.Pattern[str] | None:
    """Return what matches the values, as they are or as addresses, JSON and Python write them, the longest first."""
    forms = {
        form
        for _, value in secrets
        for data in [os.fsencode(value)]  # it may be no UTF-8
        for form in (value, quote(data), quote(data, safe=""), json.dumps(value)[1:-1], repr(value)[1:-1])
    }
    if not forms:
        return None
    # A word is hidden as a whole word only: the password `postgresuser` is not half of another name.
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    return re.compile("|".join(rf"\b{form}\b" if form.isalpha() else re.escape(form) for form in longest_first))


def _print_traceback(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, thread: Any = None
) -> None:
    if thread is not None and issubclass(kind, SystemExit):
        return
    begin = f"Exception in thread {thread.name}:\n" if thread is not None else ""
    print(begin + redact("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr, flush=True)
