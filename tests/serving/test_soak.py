"""The server under mixed load: no valid request fails, nothing leaks. Half an hour in `make verify`, a minute as a slow test."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from openai import OpenAI

from gpt.params.project import load_params
from gpt.registry.versions import CHAMPION
from gpt.tracking import store
from tests.registry.conftest import built, line_of_champions, make_champions, project
from tests.serving.live import Server, running_server
from tests.serving.test_requests import in_progress, malformed, metric, post

__all__ = ["built", "line_of_champions", "make_champions", "project"]

_CLIENTS = 6
_FLAT = 1.05


class Load:
    """Clients that ask, leave in the middle, or ask for nonsense, until they are told to stop."""

    def __init__(self, server: Server, name: str) -> None:
        self.server, self.name = server, name
        self.done, self.left, self.refused = 0, 0, 0
        self.failures: list[str] = []
        self.over = threading.Event()
        self._nonsense = list(malformed())
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(_CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(timeout=120)
            assert not thread.is_alive(), "a client waits for ever"

    def _client(self, number: int) -> None:
        rng = random.Random(number)
        api = OpenAI(base_url=f"{self.server.address}/v1", api_key="none", max_retries=0, timeout=120)
        while not self.over.is_set():
            try:
                self._one(rng, api)
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")

    def _one(self, rng: random.Random, api: OpenAI) -> None:
        match rng.randrange(4):
            case 0:
                body = rng.choice(self._nonsense)
                status, _ = post(self.server, *body)
                assert 400 <= status < 500, (body[1][:200], status)
                self.refused += 1
            case 1:
                stream = api.completions.create(model=self.name, prompt="to be", max_tokens=12, stream=True)
                for _ in range(rng.randint(1, 3)):
                    next(stream, None)
                stream.close()
                self.left += 1
            case 2:
                chunks = list(api.completions.create(model=self.name, prompt="to be", max_tokens=12, stream=True))
                assert chunks[-1].choices[0].finish_reason
                self.done += 1
            case _:
                choice = api.completions.create(model=self.name, prompt=["to", "be"], max_tokens=6, logprobs=2).choices[
                    1
                ]
                assert choice.finish_reason
                self.done += 1


def check_load(seconds: float, make_champions: Callable[[int], None], project: Path) -> str:
    make_champions(2)
    name, client = load_params().register_.name, store.client()
    with running_server(project, [f"models:/{name}@{CHAMPION}"], "--max-running", "4") as server:
        process = psutil.Process(server.process.pid)
        load = Load(server, name)
        load.start()
        begun, sizes, moves = time.monotonic(), list[tuple[float, int]](), 0
        try:
            while (elapsed := time.monotonic() - begun) < seconds:
                client.set_registered_model_alias(name, CHAMPION, str(1 + moves % 2))
                moves += 1
                load.over.wait(min(5.0, seconds / 20))
                sizes.append((elapsed, process.memory_info().rss))
        finally:
            load.stop()
        assert not load.failures, load.failures[:5]
        assert min(load.done, load.left, load.refused) > 0
        deadline = time.monotonic() + 30
        while in_progress(server):
            assert time.monotonic() < deadline, "a place is never free again"
            time.sleep(0.1)
        assert metric(server, "gpt_cache_used_ratio") == 0
        assert "Traceback" not in server.said
        # What it takes to warm up is no leak: the last quarter beside the second.
        second = max(size for at, size in sizes if seconds / 4 <= at < seconds / 2)
        last = max(size for at, size in sizes if at >= seconds * 3 / 4)
        assert last <= second * _FLAT, f"{second / 2**20:.0f} MiB became {last / 2**20:.0f}"
        return (
            f"{seconds / 60:.0f} min: {load.done:,} answers, {load.left:,} clients that left, {load.refused:,} refused,"
            f" {moves} moves of the alias; {second / 2**20:.0f} MiB, then {last / 2**20:.0f}"
        )


@pytest.mark.slow
def test_a_minute_of_mixed_load(make_champions: Callable[[int], None], project: Path) -> None:
    assert check_load(60, make_champions, project)


@pytest.mark.long
def test_half_an_hour_of_mixed_load(
    make_champions: Callable[[int], None], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = check_load(1800, make_champions, project)
    with capsys.disabled():
        print(f"\n{figure}")
    assert figure
