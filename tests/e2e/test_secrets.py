"""A secret stands in every place where one may, every command and the flow run, and none of them is seen anywhere.

Seen means: said on standard output or error; written below the project, in MLflow's or Prefect's database, in an artifact or a
cache; or in the arguments of any process while it ran.
"""

import base64
import http.server
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.server import embedded_server, free_port
from gpt.files import sha256_file
from tests.e2e.conftest import Project

PLACES = (
    "store", "server", "user", "password", "token", "prefect", "prefect_key", "prefect_auth", "proxy", "netrc", "aws", "remote",
    "origin", "hub", "wandb", "postgres", "options",
)  # fmt: skip


@pytest.fixture(scope="module")
def planted() -> dict[str, str]:
    """A secret for each place, which nothing else in the world looks like."""
    return {place: f"{secrets.token_hex(8)}Q7{secrets.token_hex(8)}" for place in PLACES}


@pytest.fixture
def seen(planted: dict[str, str]) -> Callable[[str | bytes], list[str]]:
    """Return a function that names the secrets in a text or in bytes, also as they are sent in a header."""
    forms = {
        place: [secret.encode(), *(base64.b64encode(f"{' ' * shift}{secret}".encode())[4:-4] for shift in range(3))]
        for place, secret in planted.items()
    }

    def find(content: str | bytes) -> list[str]:
        data = content.encode(errors="replace") if isinstance(content, str) else content
        return [place for place, variants in forms.items() if any(form in data for form in variants)]

    return find


@contextmanager
def watched_arguments(find: Callable[[str | bytes], list[str]]) -> Iterator[set[str]]:
    """Look at the arguments of all processes, again and again, and collect those that show a secret."""
    shown: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        known: set[tuple[str, bytes]] = set()
        while not stop.wait(0.02):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    arguments = (process / "cmdline").read_bytes()
                except OSError:
                    continue
                if (process.name, arguments) not in known:
                    known.add((process.name, arguments))
                    if find(arguments):
                        shown.add(arguments.replace(b"\0", b" ").decode(errors="replace"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield shown
    finally:
        stop.set()
        thread.join()


@contextmanager
def private_server(file: Path, login: str) -> Iterator[str]:
    """Serve one file to who knows the login; yield its address."""
    expected = f"Basic {base64.b64encode(login.encode()).decode()}"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(b"")

        def do_GET(self) -> None:
            self.answer(file.read_bytes())

        def answer(self, data: bytes) -> None:
            allowed = self.headers.get("Authorization") == expected
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Length", str(file.stat().st_size if allowed else 0))
            self.end_headers()
            if allowed:
                self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/{file.name}"
        finally:
            server.shutdown()


def plant(project: Project, planted: dict[str, str], tmp_path: Path) -> list[Path]:
    """Put the secrets where users put them; return the files that hold one."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {planted['netrc']}\n")
    (project.folder / ".dvc/config.local").write_text(
        f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = http://me:{planted['remote']}@127.0.0.1:{free_port()}/x\n"
    )
    origin = f"https://oauth2:{planted['origin']}@127.0.0.1:{free_port()}/x.git"
    subprocess.run(["git", "remote", "add", "origin", origin], cwd=project.folder, check=True)
    proxy = f"http://me:{planted['proxy']}@127.0.0.1:{free_port()}"
    project.environment.update(
        MLFLOW_TRACKING_URI=f"sqlite:///{project.folder}/mlflow.db?timeout=60&token={planted['store']}",
        MLFLOW_TRACKING_USERNAME=planted["user"],
        MLFLOW_TRACKING_PASSWORD=planted["password"],
        MLFLOW_TRACKING_TOKEN=planted["token"],
        PREFECT_API_KEY=f"pnu_{planted['prefect_key']}",
        PREFECT_API_AUTH_STRING=f"admin:{planted['prefect_auth']}",
        HTTP_PROXY=proxy,
        HTTPS_PROXY=proxy,
        NO_PROXY="127.0.0.1,localhost",
        NETRC=str(netrc),
        AWS_ACCESS_KEY_ID="AKIA" + "2E5GH7J9K1M3N5P7",
        AWS_SECRET_ACCESS_KEY=planted["aws"],
        HF_TOKEN=f"hf_{planted['hub']}",
        WANDB_API_KEY=planted["wandb"],
        DATABASE_URL=f"postgresql://me:{planted['postgres']}@127.0.0.1/x",
        FSSPEC_S3=f'{{"key": "me", "secret": "{planted["options"]}"}}',
    )
    return [netrc, project.folder / ".dvc/config.local", project.folder / ".git/config"]


class Conversation:
    """Runs commands of a project, whatever becomes of them, and fails as soon as one says a secret."""

    def __init__(self, project: Project, find: Callable[[str | bytes], list[str]]) -> None:
        self._project, self._find = project, find

    def run(self, *arguments: str) -> str:
        """Run a module to its end and return what it said."""
        process = self._project.start(*arguments)
        output = self._heard(arguments, process.communicate(timeout=400)[0])
        assert process.returncode in (0, 1, 2), output
        return output

    def gpt(self, *commands: Sequence[str]) -> str:
        """Run commands of `gpt` and return what all of them said."""
        return "".join(self.run("gpt", *command) for command in commands)

    @contextmanager
    def server(self, module: str, mark: str) -> Iterator[str]:
        """Keep a server running; yield what it said until a line held the mark."""
        process, said = self._project.start(module), ""
        assert process.stdout is not None
        try:
            for line in process.stdout:
                said += line
                if mark in line:
                    break
            assert mark in said, said
            yield self._heard([module], said)
        finally:
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=200)[0]
        self._heard([module], rest)

    def _heard(self, arguments: Sequence[str], output: str) -> str:
        assert not self._find(output), f"{' '.join(arguments)} said a secret: {output}"
        return output


# After a flow has run: all that a person may ask for, also in vain.
COMMANDS = (
    ["doctor"], ["inputs"], ["fetch"], ["prepare"], ["tokenizer"], ["tokenize"], ["data-card"], ["evaluate"], ["report"],
    ["register", "--json"], ["lineage"], ["lineage", "@champion"], ["promote"], ["rollback"], ["models"], ["checkpoints"], ["sync"],
    ["tokens", "show"], ["data", "diff"], ["generate", "to be", "--model", "@candidate"],
    ["export", "exported", "--model", "@candidate"], ["import", "exported"],
)  # fmt: skip
WITH_STORE = (
    ["register", "--json"],
    ["lineage"],
    ["promote"],
    ["sync"],
    ["doctor"],
    ["generate", "to be", "--model", "@candidate"],
)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_no_secret_is_seen_anywhere(
    make_project: Callable[..., Project],
    tmp_path: Path,
    prefect_home: Path,
    planted: dict[str, str],
    seen: Callable[[str | bytes], list[str]],
) -> None:
    project = make_project(register={"gate": {"max_bits_per_byte": 8.0}})
    own = plant(project, planted, tmp_path)
    text = (tmp_path / "text.jsonl").rename(tmp_path / "private.jsonl")
    talk = Conversation(project, seen)
    with (
        watched_arguments(seen) as arguments,
        private_server(text, f"me:{planted['netrc']}") as url,
        embedded_server(project.environment) as (api, wait_until_healthy),
    ):
        source = {"name": "made-up", "kind": "url", "url": url, "members": [], "licence": "none"}
        project.change(fetch={"sources": [source | {"sha256": sha256_file(text)}]})
        wait_until_healthy()
        project.environment["PREFECT_API_URL"] = api.replace("http://", f"http://me:{planted['prefect']}@")
        assert "models:/shakespeare-gpt/1 (alias challenger)" in talk.run("flows.pretrain")
        assert "mlflow.db?timeout=60&token=***" in talk.gpt(*COMMANDS)
        with talk.server("infra.schedule", "Stop:"):
            pass

        # The same store behind a server, and then stores that are away.
        with talk.server("infra.ui", "MLflow: http") as said:
            address = re.search(r"http://(127\.0\.0\.1:\d+)/", said)
            assert address is not None
            project.environment["MLFLOW_TRACKING_URI"] = f"http://me:{planted['server']}@{address[1]}"
            wait_for_store(talk)
            assert '"uri": "models:/shakespeare-gpt/1"' in talk.gpt(*WITH_STORE, ["lineage", "models:/none/1"])
        for scheme in ("postgresql+psycopg2", "http"):
            project.environment["MLFLOW_TRACKING_URI"] = f"{scheme}://me:{planted['server']}@127.0.0.1:{free_port()}/x"
            assert "cannot be reached" in talk.gpt(*WITH_STORE)
        project.change(train={"max_steps": 31}, launch={"num_processes": 2, "micro_batch_size": 4})
        assert "metrics are kept in spool/" in talk.run("gpt", "pretrain")
        assert "cannot be reached" in talk.run("gpt", "sync")
        project.environment["PREFECT_API_URL"] = f"http://me:{planted['prefect']}@127.0.0.1:{free_port()}/api"
        assert "no Prefect server answers" in talk.run("flows.pretrain")

    assert arguments == set()
    files = [
        path for folder in (tmp_path, prefect_home) for path in folder.rglob("*") if path.is_file() and path not in own
    ]
    assert any(path.name == "prefect.db" for path in files)
    assert any("mlartifacts" in path.parts for path in files)
    assert {str(path): seen(path.read_bytes()) for path in files if seen(path.read_bytes())} == {}


def wait_for_store(talk: Conversation) -> None:
    deadline = time.monotonic() + 200
    while "cannot be reached" in talk.gpt(["lineage"]):
        assert time.monotonic() < deadline
