"""The export under `transformers serve` gives the same greedy answers as `gpt serve` gives with the model itself."""

from pathlib import Path

import pytest
from openai import OpenAI

from benchmarks.serving import transformers_serve
from gpt.model.convert.huggingface import export_huggingface
from tests.conftest import write_params
from tests.serving.conftest import CONTEXT
from tests.serving.live import running_server

ASKED = ["who is the queen?", "To be, or not to be?", "naïve Größe 東京", "a", "and now the king says: the question"]


@pytest.mark.slow
def test_the_export_answers_the_same(chat_folder: Path, tmp_path: Path) -> None:
    export_huggingface(chat_folder, tmp_path / "export")
    write_params(tmp_path, {})
    with (
        running_server(tmp_path, [chat_folder]) as ours,
        transformers_serve(tmp_path / "export", continuous_batching=False) as theirs,
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
                (OpenAI(base_url=f"{theirs.address}/v1", api_key="none"), theirs.model),
            )
        ]  # fmt: skip
    assert answers[0] == answers[1]
    assert any(answers[0])
