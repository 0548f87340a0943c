"""The export under `transformers serve` gives the same greedy answers as `gpt serve` gives with the model itself."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from openai import OpenAI

from flows.server import free_port
from gpt.model.convert.huggingface import export_huggingface
from tests.conftest import write_params
from tests.serving.conftest import CONTEXT
from tests.serving.live import running_server

ASKED = ["who is the queen?", "To be, or not to be?", "naïve Größe 東京", "a", "and now the king says: the question"]


@contextmanager
def transformers_serve(model: Path, log: Path) -> Iterator[str]:
    port = free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 240
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "it does not begin to answer"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.slow
def test_the_export_answers_the_same(chat_folder: Path, tmp_path: Path) -> None:
    export_huggingface(chat_folder, tmp_path / "export")
    write_params(tmp_path, {})
    with (
        running_server(tmp_path, [chat_folder]) as ours,
        transformers_serve(tmp_path / "export", tmp_path / "log") as theirs,
    ):
        answers = [
            [
                client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=CONTEXT // 3
                ).choices[0].message.content
                for text in ASKED
            ]
            for client, model in (
                (OpenAI(base_url=f"{ours.address}/v1", api_key="none"), "chat"),
                (OpenAI(base_url=f"{theirs}/v1", api_key="none"), str(tmp_path / "export")),
            )
        ]  # fmt: skip
    assert answers[0] == answers[1]
    assert any(answers[0])
