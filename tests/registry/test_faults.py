"""The MLflow server dies in the middle of a command, at each of its requests: run again, the end is as without the fault."""

import http.client
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows.server import free_port
from gpt.errors import UserError
from gpt.params.project import Params, load_params
from gpt.registry.package import register
from gpt.registry.promotion import judge_candidate, promote, rollback
from gpt.registry.trail import audit_trail
from gpt.registry.versions import all_versions, resolve_model
from tests.registry.conftest import make_model, register_model
from tests.registry.forked_server import ForkedServer

NAME = "small-gpt"
NOT_PASSED_ON = ("host", "content-length", "transfer-encoding", "connection", "expect")
PARTS = 4
"Of the faults at each request, which can be tried in several processes."
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
VOLATILE = ("lineage", "promotion.time", "gate.")


@dataclass
class Proxy:
    """Passes requests on to a real server, and kills that at one: before it gets the request, or before its answer is passed on."""

    folder: Path
    server: ForkedServer = field(init=False)
    upstream: int = field(default_factory=free_port)
    fault: Callable[[int, str, str], str | None] = lambda number, method, path: None
    "Given number, method and path of a request: `before`, `after`, or None; `lost` only loses the answer."
    requests: list[str] = field(default_factory=list)
    faults: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.server = ForkedServer(self.folder, self.upstream)

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return what the server says; raise `OSError` if it is dead, or its answer is lost."""
        with self.lock:
            self.requests.append(f"{method} {path.partition('?')[0]}")
            fault = self.fault(len(self.requests), method, path) if not self.faults else None
            self.faults += fault is not None
        if fault == "before":
            self.server.kill()
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()
        if fault == "after":
            self.server.kill()
        if fault in ("after", "lost"):
            raise OSError("the answer is lost")
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in NOT_PASSED_ON}
        return answer.status, kept | {"Content-Length": str(len(content))}, content


@contextmanager
def faulty_server(folder: Path) -> Iterator[tuple[str, Proxy]]:
    """Yield the address of a proxy before a real server on `mlflow.db` in a folder."""
    proxy = Proxy(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.read_body()
            passed = {name: value for name, value in self.headers.items() if name.lower() not in NOT_PASSED_ON}
            headers = passed | {"Content-Length": str(len(body))}
            try:
                status, headers, content = proxy.answer(self.command, self.path, headers, body)
            except OSError:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = answer  # noqa: N815 (http.server's names)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError, ValueError):
                super().handle()

    front = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    front.daemon_threads = True
    threading.Thread(target=front.serve_forever, daemon=True).start()
    proxy.server.start()
    try:
        yield f"http://127.0.0.1:{front.server_address[1]}", proxy
    finally:
        front.shutdown()
        front.server_close()
        proxy.server.end()


def end_state(url: str) -> dict[str, Any]:
    """Return what the registry says, without times, and names that MLflow makes up."""
    client = MlflowClient(url)
    versions = [
        (
            version.version,
            {key: TIME.sub("some time", value) for key, value in version.tags.items() if not key.startswith(VOLATILE)},
            resolve_model(f"models:/{NAME}/{version.version}").is_dir(),
        )
        for version in all_versions(client, NAME)
    ]
    trail = [
        (event.verdict, event.version, event.previous_version, event.carried_out) for event in audit_trail(client, NAME)
    ]
    for _, tags, _ in versions:
        tags.pop("promotion.decision", None)  # a number that was taken back is not used again
    return {"versions": versions, "aliases": client.get_registered_model(NAME).aliases, "trail": trail}


def do_register(params: Params, project: Path) -> None:
    register(params, project)
    judge_candidate(params, project)


def do_promote(params: Params, project: Path) -> None:
    promote(params, project)


def do_rollback(params: Params, project: Path) -> None:
    rollback(params)


COMMANDS = {"register": do_register, "promote": do_promote, "rollback": do_rollback}


@dataclass
class Stage:
    """A project, and a server that is put back to how it was before the command."""

    project: Path
    url: str
    proxy: Proxy
    before: Path

    def reset(self) -> None:
        self.proxy.server.kill()
        shutil.rmtree(self.proxy.folder)
        shutil.copytree(self.before, self.proxy.folder)
        self.proxy.requests.clear()
        self.proxy.faults = 0
        self.proxy.fault = lambda number, method, path: None
        self.proxy.server.start()

    def run(self, command: str) -> None:
        COMMANDS[command](load_params(self.project / "params.yaml"), self.project)

    def run_with(self, command: str, fault: Callable[[int, str, str], str | None]) -> dict[str, Any]:
        """Run a command with a fault, and again if it failed of it; return the end."""
        self.reset()
        self.proxy.fault = fault
        try:
            self.run(command)
            failed = False
        except UserError:
            failed = True
        assert self.proxy.faults, "the fault happened"
        if not self.proxy.server.is_up:
            self.proxy.server.start()
        if failed and not (command == "rollback" and self._was_decided()):
            self.run(command)
        return self.end(command)

    def end(self, command: str) -> dict[str, Any]:
        """Return the end state; after a rollback that of the next command, which carries out what was decided and not done."""
        if command == "rollback":
            self.run("promote")
        return end_state(self.url)

    def _was_decided(self) -> bool:
        return audit_trail(MlflowClient(self.url), NAME)[-1].verdict == "restored"


@pytest.fixture
def stage(
    project: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Stage]]:
    """Return a function that brings project and server to where a command is next."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copyfile(empty_store, folder / "mlflow.db")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    monkeypatch.setenv("GPT_CACHE", str(tmp_path / "cache"))
    with faulty_server(folder) as (url, proxy):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)

        def set_up(command: str) -> Stage:
            params = load_params(project / "params.yaml")
            register_model(project, 5)
            promote(params, project)
            if command == "rollback":
                register_model(project, 20)
                promote(params, project)
            make_model(project, 40)
            if command == "promote":
                do_register(params, project)  # which judges: promote's own part is left
            proxy.server.kill()
            shutil.copytree(folder, tmp_path / "before")
            return Stage(project, url, proxy, tmp_path / "before")

        yield set_up


@pytest.mark.parametrize(
    ("command", "kind", "path"),
    [
        pytest.param("register", "after", "model-versions/create", marks=pytest.mark.slow),
        pytest.param("register", "lost", "model-versions/create", marks=pytest.mark.long),
        pytest.param("promote", "after", "model-versions/create", marks=pytest.mark.long),
        pytest.param("promote", "before", "registered-models/alias", marks=pytest.mark.slow),
    ],
)
def test_a_server_that_dies_at_a_telling_request(
    stage: Callable[[str], Stage], command: str, kind: str, path: str
) -> None:
    at = stage(command)
    at.reset()
    at.run(command)
    expected = at.end(command)

    def fault(number: int, method: str, asked: str) -> str | None:
        return kind if path in asked and method == "POST" else None

    assert at.run_with(command, fault) == expected


def faults_at(requests: list[str]) -> Iterator[tuple[int, str]]:
    """Yield (number, kind) of each fault at each request: whatever changes nothing is the same before and after."""
    for number, request in enumerate(requests, start=1):
        yield number, "before"
        if not request.startswith("GET ") and "/mlflow-artifacts/" not in request and not request.endswith("/search"):
            yield number, "after"
            yield number, "lost"


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("part", range(PARTS), ids=lambda part: f"part{part}")
def test_a_server_that_dies_at_each_request(stage: Callable[[str], Stage], command: str, part: int) -> None:
    at = stage(command)
    at.reset()
    at.run(command)
    requests = list(at.proxy.requests)
    expected = at.end(command)
    wrong = []
    chosen = list(faults_at(requests))[part::PARTS]
    for number, kind in chosen:
        found = at.run_with(command, lambda asked, *_, number=number, kind=kind: kind if asked == number else None)
        if found != expected:
            wrong.append((number, kind, requests[number - 1], found))
    print(f"{command}, part {part}: {len(requests)} requests, {len(chosen)} faults, {len(wrong)} ended otherwise")
    assert not wrong
