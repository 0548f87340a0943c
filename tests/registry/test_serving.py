"""A server of a registered version: bad requests get a 400 that names the field, good ones what `gpt generate` writes."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pytest
from fastapi.testclient import TestClient
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server
from mlflow.pyfunc.model import PythonModel

from flows.server import free_port
from gpt.commands.main import run as gpt
from gpt.params.project import Params
from gpt.registry.package import RegisteredModel, register
from gpt.registry.versions import CHAMPION
from gpt.tracking import store
from tests.conftest import ROOT
from tests.registry.test_package import Registered, package_folder
from tests.registry.traffic import (
    JSON,
    WRONG_PARAMETERS,
    Malformed,
    Valid,
    every_malformed_request,
    inputs,
    malformed_requests,
    valid_requests,
)


class Answer(NamedTuple):
    status: int
    text: str


Ask = Callable[[bytes, "str | None"], Answer]


@pytest.fixture(scope="module")
def model(registered: Registered) -> PyFuncModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        return mlflow.pyfunc.load_model(str(package_folder(registered[0])))


@pytest.fixture(scope="module")
def ask(model: PyFuncModel) -> Iterator[Ask]:
    """Ask MLflow's scoring server in this process."""
    with TestClient(scoring_server.init(model), raise_server_exceptions=False) as client:

        def post(body: bytes, content_type: str | None) -> Answer:
            headers = {} if content_type is None else {"content-type": content_type}
            answer = client.post("/invocations", content=body, headers=headers)
            return Answer(answer.status_code, answer.text)

        yield post


def check_refused(request: Malformed, answer: Answer) -> None:
    """Its status, the field in its message, nothing of our code, and no echo of a large request."""
    message = json.loads(answer.text)["message"] if answer.status == 400 else answer.text
    told = f"{request.body[:100]!r} ({request.content_type}): {answer.status} {answer.text[:300]}"
    assert answer.status == request.status, told
    assert request.named in message, told
    assert len(answer.text) < 2500, told
    assert not [
        word for word in ("Traceback", "stack_trace", 'File "', ".py", "site-packages") if word in answer.text
    ], told


def completions(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.text
    predictions = json.loads(answer.text)
    rows = predictions["predictions"] if isinstance(predictions, dict) else predictions
    return [row["completion"] for row in rows]


def generated(prompt: str, parameters: dict[str, Any], capsys: pytest.CaptureFixture[str], uri: str) -> str:
    """Return what `gpt generate` writes after a prompt."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in parameters.items() if name != "stop"]
    flags += [f"--stop={text}" for text in parameters.get("stop", [])]
    capsys.readouterr()
    assert gpt(["generate", "--model", uri, *flags, "--", prompt]) == 0
    return capsys.readouterr().out.removeprefix(prompt).removesuffix("\n")


def test_every_malformed_request_is_a_400_that_names_the_field(ask: Ask) -> None:
    for request in every_malformed_request():
        check_refused(request, ask(request.body, request.content_type))


def test_valid_requests_of_every_form_get_what_gpt_generate_writes(
    ask: Ask, registered: Registered, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project, version = registered
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", version.tracking_uri)
    for request in valid_requests(20, seed=1):
        answers = completions(ask(request.body, request.content_type))
        expected = [generated(prompt, request.parameters, capsys, version.uri) for prompt in request.prompts]
        assert answers == expected, request


@pytest.mark.parametrize("name", WRONG_PARAMETERS)
def test_from_python_too_a_parameter_that_is_wrong_is_named(model: PyFuncModel, name: str) -> None:
    for value in WRONG_PARAMETERS[name]:
        if value is not None:  # MLflow itself takes a null for the default
            with pytest.raises((MlflowException, OverflowError)) as refusal:
                model.predict([{"prompt": "to be"}], params={name: value})
            assert isinstance(refusal.value, OverflowError) or name in str(refusal.value)


def test_from_python_a_table_may_have_any_number_of_rows(model: PyFuncModel) -> None:
    assert len(model.predict({"prompt": ["to be"] * 1100}, params={"max_new_tokens": 1})) == 1100


def test_whoever_serves_a_version_may_set_other_limits(registered: Registered, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(package_folder(registered[0]))
    monkeypatch.setenv("MLFLOW_PYFUNC_INFERENCE_CONFIG", '{"max_new_tokens": 5}')
    model = mlflow.pyfunc.load_model(folder)
    with pytest.raises(MlflowException, match=r'"max_new_tokens" must be a whole number from 1 to 5 .*, not 6'):
        model.predict([{"prompt": "to be"}], params={"max_new_tokens": 6})
    monkeypatch.setenv("MLFLOW_PYFUNC_INFERENCE_CONFIG", '{"max_prompts": "many"}')
    with pytest.raises(Exception, match="the limit max_prompts must be a whole number above 0"):
        mlflow.pyfunc.load_model(folder)


def test_what_the_model_itself_fails_at_is_a_500_without_a_traceback(
    ask: Ask, model: PyFuncModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model.unwrap_python_model(), "encoding", None)
    answer = ask(inputs(["to be"]), JSON)
    assert (answer.status, json.loads(answer.text)["message"]) == (
        500,
        "the model failed to answer; the server's log says why",
    )
    assert "Traceback" not in answer.text
    assert "AttributeError" in caplog.text


def test_models_of_other_kinds_are_served_as_before(model: PyFuncModel, tmp_path: Path) -> None:
    class Echo(PythonModel):
        def predict(self, model_input: list[str]) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
            return model_input

    mlflow.pyfunc.save_model(tmp_path / "echo", python_model=Echo(), pip_requirements=[])
    with TestClient(scoring_server.init(mlflow.pyfunc.load_model(str(tmp_path / "echo")))) as client:
        answer = client.post("/invocations", json={"inputs": ["a"], "more": 1})
    assert answer.json() == {"predictions": ["a"]}


@contextmanager
def served(project: Path, uri: str) -> Iterator[Ask]:
    """Serve a version as docs/operations.md says, from a folder that is not the project's."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # for uvicorn
    }
    environment.pop("PYTHONPATH", None)
    log = (project / "server.log").open("wb")
    server = subprocess.Popen(command, cwd=project.parent, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"

    def post(body: bytes, content_type: str | None) -> Answer:
        headers = {"Content-Type": content_type or ""}
        request = urllib.request.Request(f"{address}/invocations", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return Answer(answer.status, answer.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode())

    try:
        deadline = time.monotonic() + 180
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{address}/ping", timeout=5):
                break
            assert server.poll() is None, (project / "server.log").read_text()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)
        yield post
        assert server.poll() is None, "it still runs"
    finally:
        server.terminate()
        server.wait(timeout=30)
        log.close()


def champion_of(project: Path, params: Params) -> RegisteredModel:
    version = register(params, project)
    store.client().set_registered_model_alias(version.name, CHAMPION, str(version.version))
    return version


def test_the_lines_of_the_readme_load_a_version_from_any_folder(project: Path, params: Params, tmp_path: Path) -> None:
    champion_of(project, params)
    (line,) = re.findall(r"`(mlflow\.pyfunc\.load_model\(.+?\))`", (ROOT / "README.md").read_text(encoding="utf-8"))
    code = f"import mlflow; print(len({line.replace('shakespeare-gpt', params.register_.name)}))"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {
        "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["1"], done.stderr
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.slow
def test_a_served_champion_answers_200_malformed_and_200_valid_requests(
    project: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"models:/{champion_of(project, params).name}@{CHAMPION}"
    malformed, valid = malformed_requests(200, seed=2), valid_requests(200, seed=3)
    requests: list[Malformed | Valid] = [request for pair in zip(malformed, valid, strict=True) for request in pair]
    with served(project, uri) as ask:
        answers = [ask(request.body, request.content_type) for request in requests[:200]]
        with ThreadPoolExecutor(16) as threads:
            answers += threads.map(lambda request: ask(request.body, request.content_type), requests[200:])
    for request, answer in zip(requests, answers, strict=True):
        if isinstance(request, Malformed):
            check_refused(request, answer)
        else:
            expected = [generated(prompt, request.parameters, capsys, uri) for prompt in request.prompts]
            assert completions(answer) == expected, request
    assert "Traceback" not in (project / "server.log").read_text(), "and no request was too much for it"
