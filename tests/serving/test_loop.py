"""Between the thread that computes and the clients: silences are told, models take turns, and one thread has the cores."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from gpt.model.sampling import Sampling
from gpt.model.storage import load_model
from gpt.serving.engine.engine import Engine
from gpt.serving.engine.request import Request
from gpt.serving.loop import EngineLoop
from tests.serving.test_engine import make_request

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Return what comes of the work, in a thread: tests with a browser leave a running event loop in theirs."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def test_a_stream_hears_of_silences_and_then_the_whole_answer(base_folder: Path) -> None:
    model, encoding = load_model(base_folder)
    request, busy = make_request(encoding, [5, 6, 7], max_new_tokens=6), threading.Event()

    async def listen(thread: ThreadPoolExecutor) -> list[bool]:
        thread.submit(busy.wait)  # another model's step
        heard: list[bool] = []
        async for piece in EngineLoop(Engine(model, encoding), thread, 1).answer([request]).with_silences(0.01):
            heard.append(piece is not None)
            if heard == [False] * 3:
                busy.set()
        return heard

    with ThreadPoolExecutor(1) as thread:
        heard = run(listen(thread))
    assert heard[:3] == [False] * 3
    assert heard[-1]
    assert request.written == 6 or request.tokens[-1] in request.ends


def test_a_short_answer_does_not_wait_for_the_end_of_another_models_long_one(base_folder: Path) -> None:
    model, encoding = load_model(base_folder)

    async def ask() -> list[str]:
        over: list[str] = []

        async def answer(name: str, loop: EngineLoop, tokens: int) -> None:
            async for _ in loop.answer([Request([5], Sampling(tokens, temperature=0.0), encoding, ends=())]):
                pass
            over.append(name)

        loops = [EngineLoop(Engine(model, encoding), thread, 1) for _ in range(2)]
        await asyncio.gather(answer("long", loops[0], 40), answer("short", loops[1], 4))
        return over

    with ThreadPoolExecutor(1) as thread:
        assert run(ask()) == ["short", "long"]


def test_one_thread_computes_on_all_cores_and_those_that_load_on_one() -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
import torch
from gpt.processes.cores import usable_cores
from gpt.serving.server import _let_compute
with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1) as other:
    _let_compute(thread)
    assert thread.submit(torch.get_num_threads).result() == min(2, usable_cores())
    assert other.submit(torch.get_num_threads).result() == 1 == torch.get_num_threads()
"""
    subprocess.run([sys.executable, "-c", "import torch; torch.set_num_threads(2)" + code], check=True)
