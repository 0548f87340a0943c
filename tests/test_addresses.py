"""Addresses of servers in the environment: what is refused and with which word, who answers there, and the way past a proxy."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gpt import addresses
from gpt.errors import UserError

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without proxies, which is as it was afterwards."""
    for name in PROXIES:
        for variable in (name, name.upper()):
            monkeypatch.setenv(variable, "")  # noted as set by the test, hence restored
            monkeypatch.delenv(variable)


@contextmanager
def speaking(said: bytes) -> Iterator[int]:
    """Yield a port at which somebody says the same whatever is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(said)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@contextmanager
def web(answers: dict[str, tuple[int, bytes]]) -> Iterator[int]:
    """Yield the port of a web server that has an answer to some paths, and 404 to others."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path.partition("?")[0], (404, b"<html>"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("http://127.0.0.1:PORT", "the port must be a number"),
        ("http://127.0.0.1:99999", "the port must be a number"),
        ("http://127.0.0.1:-1", "the port must be a number"),
        ("sqlite:mlflow.db", r"was sqlite:///mlflow\.db meant\?"),
        ("sqlite://mlflow.db", r"was sqlite:///mlflow\.db meant\?"),
        ("mlflow.db", r"was sqlite:///mlflow\.db meant\?"),
        ("/data/mlflow.db", r"was sqlite:////data/mlflow\.db meant\?"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "nothing would be kept"),
        ("127.0.0.1:5055", r"was http://127\.0\.0\.1:5055 meant\?"),
        ("localhost:5000", "was http://localhost:5000 meant"),
        ("[::1]:5000/x", r"was http://\[::1\]:5000/x meant"),
        ("http:/host:5000", "was http://host:5000 meant"),
        ("htp://host:5000", "was http://host:5000 meant"),
        ("postgres://host/db", "was postgresql://host/db meant"),
        ("http://host:5000/#/experiments/1", "was http://host:5000 meant"),
        ("http://", "names no host"),
        ("http://[::1", "Invalid IPv6"),
        ("http://..:5000", "no host of that name"),
        ("http://ho st:5000", "holds no space"),
        ("http://host\n:5000", "holds no space"),
        ("./mlruns", "plain folder"),
        ("file:///data/mlruns", "plain folder"),
        ("ftp://host/x", "must begin with http://"),
        ("${MLFLOW}", "is no address"),
        ("nonsense", "is no address"),
        ("://", "is no address|must begin"),
    ],
)
def test_what_is_no_address_of_a_store_is_refused_by_the_name_of_its_variable(
    value: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", value)
    with pytest.raises(UserError, match=word) as refusal:
        addresses.mlflow_address()
    assert str(refusal.value).startswith("MLFLOW_TRACKING_URI = ")
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    "value",
    [
        "http://host:5000", "https://host/mlflow/", "HTTP://127.0.0.1", "http://[::1]:5000", "http://me:pass@host:5000",
        "sqlite:///mlflow.db", "sqlite:////data/mlflow.db", "postgresql://host/db", "postgresql+psycopg://me:p%40ss@host:5432/db",
        "mysql://host/db", "databricks", "databricks://profile",
    ],
)  # fmt: skip
def test_addresses_of_stores_are_taken_as_they_are(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f" {value} ")
    assert addresses.mlflow_address() == value


@pytest.mark.parametrize("value", ["", "   "])
def test_an_empty_variable_counts_as_unset(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", value)
    monkeypatch.setenv("PREFECT_API_URL", value)
    assert addresses.mlflow_address() is None
    assert addresses.prefect_address() is None


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("http://127.0.0.1:PORT/api", "the port must be a number"),
        ("127.0.0.1:4200/api", r"was http://127\.0\.0\.1:4200/api meant"),
        ("sqlite:///prefect.db", "must begin with http://, https://"),
        ("postgresql://host/prefect", "must begin with http://, https://"),
        ("api", "is no address"),
    ],
)
def test_what_is_no_address_of_a_web_server_is_refused(value: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", value)
    with pytest.raises(UserError, match=word) as refusal:
        addresses.prefect_address()
    assert str(refusal.value).startswith("PREFECT_API_URL = ")


@pytest.mark.parametrize("value", ["http://me:s3cret@host:PORT", "me:s3cret@host:5000", "postgres://me:s3cret@host/db"])
def test_no_refusal_shows_a_password(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", value)
    with pytest.raises(UserError) as refusal:
        addresses.mlflow_address()
    assert "s3cret" not in str(refusal.value)
    assert "host" in str(refusal.value)


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x15\x03\x01\x00\x02\x02\x50", b"*1\r\n$4\r\n"])
@pytest.mark.parametrize("is_it", [addresses.is_prefect, addresses.is_mlflow])
def test_who_does_not_speak_http_is_no_server_of_ours(said: bytes, is_it: Callable[[str, float], bool]) -> None:
    with speaking(said) as port:
        assert not is_it(f"http://127.0.0.1:{port}", 10)


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
        b"HTTP/1.1 302 Found\r\nLocation: /health\r\nContent-Length: 0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("is_it", [addresses.is_prefect, addresses.is_mlflow])
def test_a_web_server_that_breaks_off_or_leads_in_a_circle_is_none_of_ours(
    said: bytes, is_it: Callable[[str, float], bool]
) -> None:
    with speaking(said) as port:
        assert not is_it(f"http://127.0.0.1:{port}", 10)


def test_prefects_api_is_told_from_its_ui_and_from_others() -> None:
    with web({"/api/health": (200, b"true"), "/health": (200, b"<html>")}) as port:
        assert addresses.is_prefect(f"http://127.0.0.1:{port}/api", 10)
        assert addresses.is_prefect(f"http://127.0.0.1:{port}/api/", 10)
        ui = f"http://127.0.0.1:{port}"
        assert not addresses.is_prefect(ui, 10)
        assert f"was {ui}/api meant?" in str(addresses.not_prefect("PREFECT_API_URL", ui))
        assert not addresses.is_prefect(f"{ui}/other", 10)


def test_mlflow_is_told_from_other_web_servers() -> None:
    search = "/api/2.0/mlflow/experiments/search"
    with web({"/health": (200, b"OK")}) as port:
        assert addresses.is_mlflow(f"http://127.0.0.1:{port}/", 10)
    with web({search: (200, b'{"experiments": []}')}) as port:  # hosted, without /health
        assert addresses.is_mlflow(f"http://127.0.0.1:{port}", 10)
    with web({"/health": (200, b"<html>"), search: (200, b"<html>")}) as port:
        assert not addresses.is_mlflow(f"http://127.0.0.1:{port}", 10)


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_who_asks_for_a_password_or_is_ill_may_be_ours(status: int) -> None:
    paths = ("/health", "/api/2.0/mlflow/experiments/search")
    with web(dict.fromkeys(paths, (status, b""))) as port:
        assert addresses.is_prefect(f"http://127.0.0.1:{port}", 10)
        assert addresses.is_mlflow(f"http://me:password@127.0.0.1:{port}", 10)


def test_a_proxy_that_hides_a_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = f"http://me:s3cret@127.0.0.1:{free_port()}"
    monkeypatch.setenv("HTTP_PROXY", dead)
    with pytest.raises(addresses.Unreachable, match=r"refused.*through the proxy HTTP_PROXY=http://127"):
        addresses.ask("http://mlflow.example:5000/health", 10)
    monkeypatch.delenv("HTTP_PROXY")
    with speaking(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n") as port:
        monkeypatch.setenv("all_proxy", f"127.0.0.1:{port}")
        with pytest.raises(
            addresses.Unreachable, match=rf"503.*through the proxy all_proxy=http://127\.0\.0\.1:{port}"
        ):
            addresses.ask("http://mlflow.example:5000/health", 10)


def test_servers_of_this_machine_are_asked_past_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with web({"/health": (200, b"OK")}) as port:
        assert addresses.ask(f"http://127.0.0.1:{port}/health", 10) == (200, b"OK")
        assert addresses.ask(f"http://localhost:{port}/health", 10) == (200, b"OK")


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ({}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "intern.example, 10.0.0.1"}, "intern.example,10.0.0.1,localhost,127.0.0.1,::1"),
        ({"no_proxy": "localhost"}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "*"}, None),
    ],
)
@pytest.mark.parametrize("proxy", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_children_get_no_proxy_for_this_machine_and_keep_what_the_user_wrote(
    before: dict[str, str], expected: str | None, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(proxy, "http://proxy.example:3128")
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    addresses.spare_loopback()
    addresses.spare_loopback()  # every entry point calls it, also one below another
    if expected is None:
        assert os.environ["NO_PROXY"] == "*"
    else:
        assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == expected


def test_without_a_proxy_the_environment_stays_as_it_is() -> None:
    addresses.spare_loopback()
    assert "no_proxy" not in os.environ
    assert "NO_PROXY" not in os.environ


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("HTTP_PROXY", "http://127.0.0.1:PORT", "port must be a number"),
        ("https_proxy", "http://", "names no host"),
        ("ALL_PROXY", "socks://127.0.0.1:1080", "was socks5://127.0.0.1:1080 meant"),
        ("ALL_PROXY", "ftp://127.0.0.1:1080", "must begin with http://"),
    ],
)
def test_a_proxy_that_prefects_client_cannot_read_is_refused(
    variable: str, value: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=rf"^{variable} = .*{word}"):
        addresses.check_proxies()


def test_usual_proxies_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "proxy.example:3128")
    monkeypatch.setenv("https_proxy", "http://me:password@proxy.example:3128/")
    addresses.check_proxies()
    assert [proxy.scheme for proxy in addresses.proxies()] == ["http", "http"]
