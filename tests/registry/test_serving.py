"""What a server of a version answers: a 400 that names the field to bad requests, what `gpt generate` writes to good ones."""

import asyncio
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pytest
from fastapi.testclient import TestClient
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server
from mlflow.pyfunc.model import PythonModel

from gpt.commands.main import run as gpt
from gpt.registry.serving import arrival
from tests.registry.test_package import Registered, package_folder
from tests.registry.traffic import (
    JSON,
    WRONG_PARAMETERS,
    Malformed,
    every_malformed_request,
    inputs,
    valid_requests,
)

MEGABYTE = 2**20


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
def client(model: PyFuncModel) -> Iterator[TestClient]:
    """MLflow's scoring server in this process."""
    with TestClient(scoring_server.init(model), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def ask(client: TestClient) -> Ask:
    def post(body: bytes, content_type: str | None) -> Answer:
        headers = {} if content_type is None else {"content-type": content_type}
        answer = client.post("/invocations", content=body, headers=headers)
        return Answer(answer.status_code, answer.text)

    return post


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


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/invocations", 405), ("PUT", "/invocations", 405), ("POST", "/ping", 405), ("POST", "/invocation", 404)],
)
def test_another_method_or_path_is_told_so(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path, content=inputs(["to be"]), headers={"content-type": JSON})
    assert (answer.status_code, "Traceback" in answer.text) == (status, False)
    assert client.get("/health").status_code == 200


def post_in_pieces(model: PyFuncModel, pieces: Iterator[dict[str, Any]]) -> Answer:
    """Send the messages of a body that a server hands on as they come."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(pieces)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/invocations", "query_string": b"", "http_version": "1.1"}
    scope |= {"headers": [(b"content-type", JSON.encode())], "asgi": {"version": "3.0"}}
    asyncio.run(scoring_server.init(model)(scope, receive, send))  # pyright: ignore[reportArgumentType]
    return Answer(sent[0]["status"], b"".join(message.get("body", b"") for message in sent).decode())


def test_of_a_huge_body_no_more_is_kept_than_a_request_may_have(model: PyFuncModel) -> None:
    chunk = b"a" * MEGABYTE
    pieces = iter({"type": "http.request", "body": chunk, "more_body": left > 0} for left in reversed(range(2048)))
    tracemalloc.start()
    try:
        answer = post_in_pieces(model, pieces)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.status == 400
    assert "more than the 16,777,216 bytes" in json.loads(answer.text)["message"]
    assert not list(pieces), "it was heard to the end, so that the client reads the answer"
    assert peak < 64 * MEGABYTE


def test_a_client_that_leaves_in_the_middle_of_its_request_is_no_error_of_the_server(model: PyFuncModel) -> None:
    pieces = [{"type": "http.request", "body": b'{"inputs"', "more_body": True}, {"type": "http.disconnect"}]
    assert post_in_pieces(model, iter(pieces)).status == 400


def test_a_request_whose_time_is_over_is_given_up_and_leaves_the_model_to_others(
    model: PyFuncModel, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = arrival._DEADLINE.set(0.0)
    with pytest.raises(MlflowException, match="not answered within 60 seconds"):
        model.predict([{"prompt": "to be"}])
    arrival._DEADLINE.reset(over)
    lock = model.unwrap_python_model()._one_at_a_time  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "1")
    with lock, TestClient(scoring_server.init(model)) as client:
        answer = client.post("/invocations", content=inputs(["to be"]), headers={"content-type": JSON})
        assert answer.status_code in (503, 504), answer.text
    monkeypatch.delenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT")
    assert ask(inputs(["to be"]), JSON).status == 200
