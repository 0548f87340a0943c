"""A version outside of this process, as README.md and docs/operations.md say: loaded from any folder, and served."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from flows.server import free_port
from gpt.commands.main import main
from gpt.params.project import load_params
from gpt.registry.package import register
from gpt.registry.versions import CHAMPION
from gpt.tracking import store
from tests import ROOT
from tests.registry.test_serving import Answer, Ask, check_refused, completions, generated
from tests.registry.traffic import Malformed, Valid, malformed_requests, valid_requests
from tests.servers import mlflow_server

_START_SECONDS = 300
_ANSWER_SECONDS = 300


class Champion(NamedTuple):
    """A champion: its project, and where its store is."""

    project: Path
    name: str
    tracking_uri: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}@{CHAMPION}"

    def environment(self) -> dict[str, str]:
        """Return the environment of somebody who knows the store's address and has no checkout."""
        found = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        found |= {"MLFLOW_TRACKING_URI": self.tracking_uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
        found["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{found['PATH']}"  # for uvicorn
        return found


def make_champion(project: Path, tracking_uri: str) -> Champion:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
        version = register(load_params(), project)
        store.client().set_registered_model_alias(version.name, CHAMPION, str(version.version))
        return Champion(project, version.name, tracking_uri)


@pytest.fixture(scope="module")
def champion(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Champion:
    """One in the project's own store."""
    project = tmp_path_factory.mktemp("champion") / "project"
    shutil.copytree(built, project)
    return make_champion(project, f"sqlite:///{project}/mlflow.db")


@pytest.fixture(scope="module")
def remote(built: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Champion]:
    """One at a server that keeps the artifacts and hands them out itself."""
    folder = tmp_path_factory.mktemp("remote")
    shutil.copytree(built, folder / "project")
    (folder / "server").mkdir()
    shutil.copyfile(empty_store, folder / "server/mlflow.db")
    with mlflow_server(folder / "server") as address:
        yield make_champion(folder / "project", address)


@contextmanager
def served(champion: Champion, folder: Path) -> Iterator[Ask]:
    """Serve it as docs/operations.md says, from a folder that is not the project's; the server's log is there too."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", champion.uri, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--timeout", str(_ANSWER_SECONDS)]
    log = (folder / "server.log").open("wb")
    server = subprocess.Popen(
        command, cwd=folder, env=champion.environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"

    def post(body: bytes, content_type: str | None) -> Answer:
        headers = {"Content-Type": content_type or ""}
        request = urllib.request.Request(f"{address}/invocations", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
                return Answer(answer.status, answer.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode())

    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{address}/ping", timeout=5):
                break
            assert server.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)
        yield post
        assert server.poll() is None, "it still runs"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)
        log.close()


def check_traffic(
    champion: Champion, folder: Path, count: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Send so many malformed and as many valid requests, half of them sixteen at a time, and check every answer."""
    malformed, valid = malformed_requests(count, seed=2), valid_requests(count, seed=3)
    requests: list[Malformed | Valid] = [request for pair in zip(malformed, valid, strict=True) for request in pair]
    with served(champion, folder) as ask:
        answers = [ask(request.body, request.content_type) for request in requests[:count]]
        with ThreadPoolExecutor(16) as threads:
            answers += threads.map(lambda request: ask(request.body, request.content_type), requests[count:])
    monkeypatch.chdir(champion.project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", champion.tracking_uri)
    for request, answer in zip(requests, answers, strict=True):
        if isinstance(request, Malformed):
            check_refused(request, answer)
        else:
            expected = [generated(prompt, request.parameters, capsys, champion.uri) for prompt in request.prompts]
            assert completions(answer) == expected, request
    assert "Traceback" not in (folder / "server.log").read_text(), "and no request was too much for it"


def load_as_readme_says(champion: Champion, folder: Path) -> str:
    """Run README.md's line in a folder of nothing; return the completion."""
    (line,) = re.findall(r"`(mlflow\.pyfunc\.load_model\(.+?\))`", (ROOT / "README.md").read_text(encoding="utf-8"))
    code = f"import json, mlflow; print(json.dumps({line.replace('shakespeare-gpt', champion.name)}.to_dict('list')))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=champion.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (completion,) = json.loads(done.stdout.splitlines()[-1])["completion"]
    assert not list(folder.iterdir()), "and it leaves nothing there"
    return completion


@pytest.mark.slow
def test_the_line_of_the_readme_loads_a_version_from_any_folder(
    champion: Champion, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    completion = load_as_readme_says(champion, tmp_path)
    monkeypatch.chdir(champion.project)
    assert completion == generated("To be", {}, capsys, champion.uri)


@pytest.mark.long
def test_a_version_at_a_server_is_loaded_listed_exported_and_served(
    remote: Champion, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("anywhere", "serving"):
        (tmp_path / folder).mkdir()
    completion = load_as_readme_says(remote, tmp_path / "anywhere")
    monkeypatch.chdir(remote.project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", remote.tracking_uri)
    assert completion == generated("To be", {}, capsys, remote.uri)
    assert main(["models", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["versions"]
    assert row["aliases"] == ["candidate", CHAMPION]
    assert main(["export", "--model", remote.uri, str(tmp_path / "exported")]) == 0
    assert f"| test | {row['bits_per_byte']:.4f} |" in (tmp_path / "exported/README.md").read_text(encoding="utf-8")
    check_traffic(remote, tmp_path / "serving", 10, capsys, monkeypatch)


@pytest.mark.slow
def test_a_served_champion_answers_200_malformed_and_200_valid_requests(
    champion: Champion, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_traffic(champion, tmp_path, 200, capsys, monkeypatch)
