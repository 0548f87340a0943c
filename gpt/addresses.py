"""Addresses of servers: those that variables of the environment name, and the way to them, through a proxy or not.

An address that is none is refused here by the name of its variable. MLflow, Prefect, SQLAlchemy and httpx would each find
another way to fail of it, mostly with a traceback, and mostly after the work.
"""

import json
import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from gpt.errors import UserError
from gpt.secrets.hiding import public_uri, without_userinfo

MLFLOW = "MLFLOW_TRACKING_URI"
PREFECT = "PREFECT_API_URL"

_WEB = ("http", "https")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_OF_DATABRICKS = ("databricks", "databricks-uc", "uc")
_FILE_STORE = (
    "MLflow does not keep runs in a plain folder any more; write sqlite:///PATH/mlflow.db, or http://HOST:PORT"
)
_SQLITE_FILES = (".db", ".sqlite", ".sqlite3")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SOCKS = ("socks4", "socks5", "socks5h")
_ENOUGH_BYTES = 4096  # of an answer, to see who gave it


class Unreachable(Exception):
    """Why a server gives no answer; the proxy on the way to it is named."""


class SpeaksOtherwise(Unreachable):
    """Somebody answers, but not over HTTP."""


class Answer(NamedTuple):
    """What a server said over HTTP: the status, and the beginning of the body."""

    status: int
    body: bytes


def mlflow_address() -> str | None:
    """Return MLFLOW_TRACKING_URI, None if it is not set or empty; raise `UserError` if MLflow could make nothing of it."""
    return _store_address(MLFLOW)


def check_registry_address() -> None:
    """Raise `UserError` if MLFLOW_REGISTRY_URI, which MLflow reads by itself, is no address."""
    _store_address("MLFLOW_REGISTRY_URI")


def prefect_address() -> str | None:
    """Return PREFECT_API_URL, None if it is not set or empty; raise `UserError` if it is no address of a web server."""
    if value := _value(PREFECT):
        check_web_address(PREFECT, value)
    return value


def check_web_address(name: str, value: str) -> None:
    """Raise `UserError`, which names where the value is from, if it is no `http://HOST:PORT/…`."""
    _check_server(name, value, _split(name, value, _WEB))


def ask(url: str, seconds: float) -> Answer:
    """GET a web address, through the proxy that the environment names for it; raise `Unreachable` if there is no HTTP answer."""
    import http.client
    import urllib.error
    import urllib.request

    parts, proxy = urlsplit(url), proxy_of(url)
    if proxy and proxy.scheme in _SOCKS:
        raise Unreachable(f"the proxy {proxy.described} is not one for HTTP: unknown from here")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({parts.scheme: proxy.url} if proxy else {}))
    try:
        with opener.open(without_userinfo(url), timeout=seconds) as answer:
            return Answer(answer.status, answer.read(_ENOUGH_BYTES))
    except urllib.error.HTTPError as error:
        if proxy and error.code in (407, 502, 503, 504):
            raise Unreachable(f"{error}, through the proxy {proxy.described}") from None
        return Answer(error.code, b"")
    except (OSError, ValueError, http.client.HTTPException) as error:
        is_other = isinstance(error, http.client.HTTPException) and not isinstance(error, OSError)
        reason = "what answers does not speak HTTP" if is_other else str(getattr(error, "reason", error))
        way = f", through the proxy {proxy.described}" if proxy else ""
        raise (SpeaksOtherwise if is_other and not proxy else Unreachable)(reason + way) from None


def is_prefect(url: str, seconds: float) -> bool:
    """Whether Prefect's API answers at an address, or somebody who first asks for a password.

    Raises `Unreachable` if nobody answers.
    """
    try:
        answer = ask(f"{url.rstrip('/')}/health", seconds)
    except SpeaksOtherwise:
        return False
    return answer.body.strip() == b"true" or answer.status in (401, 403) or answer.status >= 500 or _is_cloud(url)


def not_prefect(name: str, url: str) -> UserError:
    """Return the error of an address at which something else than Prefect's API answers."""
    parts = urlsplit(public_uri(url))
    meant = "" if parts.path.rstrip("/").endswith("/api") else f"was {parts.scheme}://{parts.netloc}/api meant? Else "
    return UserError(
        f"{name} = {public_uri(url)!r}: what answers there is not Prefect's API; {meant}correct or unset {name}"
    )


def is_mlflow(url: str, seconds: float) -> bool:
    """Whether what answers at an address may be an MLflow server; raise `Unreachable` if nobody does."""
    base = url.rstrip("/")
    try:
        if ask(f"{base}/health", seconds).body.strip() == b"OK":
            return True
        answer = ask(f"{base}/api/2.0/mlflow/experiments/search?max_results=1", seconds)  # hosted ones have no /health
    except SpeaksOtherwise:
        return False
    if answer.status in (401, 403) or answer.status >= 500:
        return True
    try:
        return isinstance(json.loads(answer.body), dict)
    except ValueError:
        # A long list is cut off.
        return len(answer.body) == _ENOUGH_BYTES and answer.body.lstrip().startswith(b"{")


class Proxy(NamedTuple):
    """A proxy of the environment."""

    variable: str
    url: str

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0].lower()

    @property
    def described(self) -> str:
        return f"{self.variable}={public_uri(self.url)}"


def proxies() -> list[Proxy]:
    """Return the proxies that the environment names."""
    return [proxy for name in ("http_proxy", "https_proxy", "all_proxy") if (proxy := _proxy(name))]


def proxy_of(url: str) -> Proxy | None:
    """Return the proxy through which libraries ask for a web address once `spare_loopback` is called, None if directly."""
    import urllib.request

    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in _WEB or host in _LOOPBACK or urllib.request.proxy_bypass(host):
        return None
    return _proxy(f"{parts.scheme}_proxy") or _proxy("all_proxy")


def spare_loopback() -> None:
    """Let this process and those that it starts ask servers of this machine directly, whatever proxy the environment names."""
    if not proxies():
        return
    for name in ("no_proxy", "NO_PROXY"):
        # Whoever reads one of the two finds what the user wrote in either.
        listed = os.environ.get(name) or os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        hosts = [host.strip() for host in listed.split(",") if host.strip()]
        if "*" not in hosts:
            os.environ[name] = ",".join([*hosts, *(host for host in _LOOPBACK if host not in hosts)])


def check_proxies() -> None:
    """Raise `UserError` for a proxy variable that Prefect's HTTP client cannot read: it fails of it whatever it asks for."""
    from importlib.util import find_spec

    for proxy in proxies():
        parts = _split(proxy.variable, proxy.url, ("http", "https", "socks5", "socks5h"))
        _check_server(proxy.variable, proxy.url, parts)
        if parts.scheme in _SOCKS and find_spec("socksio") is None:
            raise UserError(
                f"{proxy.variable} = {public_uri(proxy.url)!r}: Prefect needs the package socksio for a SOCKS proxy;"
                f" `pip install socksio`, or unset {proxy.variable}"
            )


def _store_address(name: str) -> str | None:
    value = _value(name)
    if value is None or value in _OF_DATABRICKS:
        return value
    is_path = ":" not in value and ("/" in value or Path(value).is_dir()) and not value.endswith(_SQLITE_FILES)
    if value.startswith("file:") or is_path:
        raise _refuse(name, value, _FILE_STORE)
    parts = _split(name, value, (*_WEB, *_DATABASES), or_of_plugin=True)
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite":
        _check_sqlite(name, value)
    elif scheme in (*_WEB, *_DATABASES):
        _check_server(name, value, parts)
    return value


def _value(name: str) -> str | None:
    return os.environ.get(name, "").strip() or None


def _split(name: str, value: str, schemes: tuple[str, ...], *, or_of_plugin: bool = False) -> SplitResult:
    """Return the parts of an address; raise `UserError`, with what was probably meant, if it is none of these schemes."""
    # A file's path may hold spaces.
    if re.search(r"[\x00-\x1f\x7f]" if value.startswith("sqlite:") else r"[\s\x00-\x1f\x7f]", value):
        raise _refuse(name, value, "an address holds no space; correct or unset it")
    try:
        parts = urlsplit(value)
    except ValueError as error:  # brackets that do not close
        raise _refuse(name, value, f"{error}; correct or unset it") from None
    scheme = parts.scheme.partition("+")[0]
    if scheme in schemes and "://" in value:
        return parts
    if or_of_plugin and scheme and (scheme in _OF_DATABRICKS or scheme in _plugin_schemes()):
        return parts
    if "://" not in value:
        raise _refuse(name, value, _meant(value, schemes))
    import difflib

    close = difflib.get_close_matches(scheme, schemes, n=1)
    rest = public_uri(value).partition("://")[2]
    meant = (
        f"was {close[0]}://{rest} meant?"
        if close
        else f"it must begin with {', '.join(f'{known}://' for known in schemes)}"
    )
    raise _refuse(name, value, meant)


def _meant(value: str, schemes: tuple[str, ...]) -> str:
    """Say what an address without `://` should be."""
    if "sqlite" in schemes and (value.startswith("sqlite:") or value.endswith(_SQLITE_FILES)):
        return f"was sqlite:///{value.removeprefix('sqlite:')} meant?"
    scheme, _, rest = value.partition(":")
    if scheme in schemes and rest:
        return f"was {scheme}://{public_uri(rest.lstrip('/'))} meant?"
    if re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.\-]+):\d+(/.*)?|localhost(/.*)?", value):
        return f"was http://{value} meant?"
    return f"is no address; it must begin with {', '.join(f'{scheme}://' for scheme in schemes)}"


def _check_sqlite(name: str, value: str) -> None:
    path = value.partition("://")[2]
    if path.strip("/") in ("", ":memory:"):
        raise _refuse(name, value, "names no file, and nothing would be kept; write sqlite:///PATH/mlflow.db")
    if not path.startswith("/"):
        raise _refuse(name, value, f"was sqlite:///{path} meant?")


def _check_server(name: str, value: str, parts: SplitResult) -> None:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise _refuse(name, value, "the port must be a number from 1 to 65535; correct or unset it")
    if not parts.hostname:
        raise _refuse(name, value, "names no host; correct or unset it")
    if parts.fragment:  # from a browser
        raise _refuse(name, value, f"was {public_uri(value).partition('#')[0].rstrip('/')} meant?")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise _refuse(name, value, "there can be no host of that name; correct or unset it") from None


def _refuse(name: str, value: str, why: str) -> UserError:
    return UserError(f"{name} = {public_uri(value)!r}: {why}")


def _plugin_schemes() -> set[str]:
    """Schemes that installed packages teach MLflow."""
    from importlib.metadata import entry_points

    return {entry.name for entry in entry_points(group="mlflow.tracking_store")}


def _proxy(name: str) -> Proxy | None:
    """Return the proxy of a variable, whose lower case form counts first, as for curl and for Python's libraries."""
    for variable in (name, name.upper()):
        if value := os.environ.get(variable, "").strip():
            return Proxy(variable, value if "://" in value else f"http://{value}")
    return None


def _is_cloud(url: str) -> bool:
    return (urlsplit(url).hostname or "").endswith(".prefect.cloud")
