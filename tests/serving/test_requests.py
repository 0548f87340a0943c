"""Requests that are wrong, too many or too long get an error that OpenAI's clients read, and the server goes on."""

import json
import random
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_params
from tests.serving.live import Server, running_server

GOOD: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": "base", "prompt": "To be", "max_tokens": 2},
    "/v1/chat/completions": {"model": "chat", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
    "/v1/classify": {"model": "classifier", "input": "a"},
}
# What no field of a body may be.
WRONG: dict[str, list[Any]] = {
    "model": [7, ["base"], {}, "no-such-model", "../base", "models:/x/1", "x" * 10_000, "base\u0000"],
    "prompt": [None, 7, {}, [], [[]], [["a"]], [-1], [10**9], [10**30], ["a"] * 99, [1.5], True],
    "messages": [
        *(None, "hi", [], [[]], [{}], [{"role": "user"}], [{"role": "king", "content": "a"}], [{"role": "user"}, 7]),
        *([{"role": "user", "content": None}], [{"role": "user", "content": 7}], {"role": "user"}),
        [{"role": "user", "content": [{"type": "image_url"}]}],
    ],
    "input": [None, 7, [], [7], {}, ["a"] * 5000],
    "max_tokens": [0, -1, 1.5, "9", 10**30, [], True],
    "temperature": [-0.1, 2.1, "1", [], 1e400, True],
    "top_p": [0, -1, 1.1, "x"],
    "top_k": [-2, 1.5, "x"],
    "seed": [1.5, "x", 10**30],
    "stop": ["", [""], 7, [7], ["a"] * 99, "x" * 1000],
    "n": [0, 99, 1.5, "x"],
    "stream": ["yes", 1, []],
    "stream_options": [{"include_usage": True}, {"x": 1}, 7],
    "logprobs": ["x", -1, 99, []],
    "presence_penalty": [0.5, "x"],
    "response_format": [{"type": "json_object"}],
    "tools": [[{"type": "function"}]],
    "max_token": [5],
    "echo": [True],
}  # fmt: skip
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
_DEEP = 100_000
RAW = [
    *(b"", b"{", b"null", b"[]", b'"text"', b"7", b'{"prompt": "a"', b'{"prompt": "\xff\xfe"}', b"\x00" * 100),
    *(b"[" * _DEEP, b'{"prompt":' * _DEEP, b'{"prompt": ' + b"[" * _DEEP + b"]" * _DEEP + b"}"),
    *(
        b'{"prompt": "\\ud800"}',
        b'{"prompt": NaN}',
        b'{"prompt": 1' + b"0" * 10_000 + b"}",
        b"\xef\xbb\xbf{}",
        "é".encode("utf-16"),
    ),
]


@pytest.fixture(scope="module")
def server(
    chat_folder: Path, base_folder: Path, classifier_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    project = tmp_path_factory.mktemp("project")
    write_params(project, {})
    limits = ("--max-running", "2", "--max-waiting", "2", "--timeout", "60")
    with running_server(project, (chat_folder, base_folder, classifier_folder), *limits) as server:
        yield server


def connected(server: Server) -> socket.socket:
    host, port = server.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def post(server: Server, route: str, body: bytes, content_type: str = "application/json") -> tuple[int, bytes]:
    request = urllib.request.Request(server.address + route, body, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def malformed() -> Iterator[tuple[str, bytes]]:
    """Yield all bodies that are wrong, by route."""
    for route, good in GOOD.items():
        for field, values in WRONG.items():
            if field in ("prompt", "messages", "input") and field not in good:
                values = values[:2]  # no such field there
            for value in values:
                if (route, field, value) != ("/v1/classify", "n", 0):
                    yield route, json.dumps(good | {field: value}).encode()
        for raw in RAW:
            yield route, raw


def is_refused(status: int, body: bytes) -> bool:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return 400 <= status < 500 and isinstance(error["message"], str) and {"type", "param", "code"} <= error.keys()


def test_whatever_is_wrong_is_refused_as_openai_does(server: Server) -> None:
    bodies = list(malformed())
    assert len(bodies) >= 200
    random.Random(1).shuffle(bodies)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda each: post(server, *each), bodies))
    wrong = [(*each, *answer) for each, answer in zip(bodies, answers, strict=True) if not is_refused(*answer)]
    assert not [(route, body[:200], status, answer[:300]) for route, body, status, answer in wrong]
    assert_alive(server)


def assert_alive(server: Server) -> None:
    for route, body in GOOD.items():
        status, answer = post(server, route, json.dumps(body).encode())
        assert status == 200, answer
    assert "Traceback" not in server.said


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"temperature": 3}, "temperature", "temperature: input should be less than or equal to 2"),
        ({"max_token": 3}, "max_token", "max_token: no such field"),
        (
            {"presence_penalty": 1},
            "presence_penalty",
            "presence_penalty: this server has no such setting; leave it out",
        ),
        ({"model": "x"}, "model", "x: is not served; GET /v1/models lists what is"),
    ],
)
def test_the_message_names_the_field(server: Server, body: dict[str, Any], param: str, said: str) -> None:
    _, answer = post(server, "/v1/completions", json.dumps(GOOD["/v1/completions"] | body).encode())
    error = json.loads(answer)["error"]
    assert (error["param"], error["message"]) == (param, said)


def test_a_body_of_another_kind_or_size_is_refused(server: Server) -> None:
    status, answer = post(server, "/v1/completions", b'{"prompt": "a"}', "text/plain")
    assert is_refused(status, answer)
    status, answer = post(server, "/v1/completions", b'{"prompt": "' + b"a" * (5 << 20) + b'"}')
    assert (status, is_refused(status, answer)) == (413, True)
    with connected(server) as connection:  # which does not say how much comes
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        part = b"%x\r\n%s\r\n" % (1 << 20, b"a" * (1 << 20))
        for _ in range(5):
            connection.sendall(part)
        connection.sendall(b"0\r\n\r\n")
        assert b" 413 " in connection.recv(1000).split(b"\r\n")[0]
    assert_alive(server)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/completions"), ("POST", "/v1/nothing"), ("DELETE", "/v1/models")]
)
def test_what_is_no_route_is_told(server: Server, method: str, path: str) -> None:
    request = urllib.request.Request(server.address + path, method=method)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code in (404, 405)
    assert json.loads(refused.value.read())["error"]["message"] == f"{method} {path}: there is no such route"


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never is"
        time.sleep(0.02)


def metric(server: Server, name: str) -> float:
    with urllib.request.urlopen(f"{server.address}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def in_progress(server: Server) -> float:
    return metric(server, "gpt_requests_running") + metric(server, "gpt_requests_waiting")


def test_more_than_may_wait_are_told_to_come_back(server: Server) -> None:
    """Nobody's answer is lost by it: those who were let in get theirs."""
    body = json.dumps(GOOD["/v1/completions"] | {"max_tokens": 60, "n": 2, "temperature": 0}).encode()
    before = metric(server, 'gpt_replies_total{route="/v1/completions",status="429"}')
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: post(server, "/v1/completions", body), range(24)))
    statuses = [status for status, _ in answers]
    assert set(statuses) == {200, 429}
    assert all(is_refused(*answer) for answer in answers if answer[0] == 429)
    refused = metric(server, 'gpt_replies_total{route="/v1/completions",status="429"}') - before
    assert refused == statuses.count(429)
    assert (
        len({answer.partition(b'"choices"')[2].partition(b'"usage"')[0] for status, answer in answers if status == 200})
        == 1
    )


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_frees_its_place(server: Server, streamed: bool) -> None:
    body = json.dumps(GOOD["/v1/completions"] | {"max_tokens": 60, "n": 4, "stream": streamed}).encode()
    for _ in range(10):
        with connected(server) as connection:
            connection.sendall(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_until(lambda: in_progress(server) > 0)
        wait_until(lambda: in_progress(server) == 0)
    assert metric(server, "gpt_cache_used_ratio") == 0
    assert_alive(server)
