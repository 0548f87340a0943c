"""An alias is followed: promote, and the next request is answered by the new champion; no request fails meanwhile."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from openai import OpenAI

from gpt.commands.main import main
from gpt.params.project import load_params
from gpt.registry.versions import CHAMPION, all_versions
from gpt.tracking import store
from tests.registry.conftest import built, line_of_champions, make_champions, project
from tests.serving.live import running_server

__all__ = ["built", "line_of_champions", "make_champions", "project"]


@pytest.mark.slow
def test_a_promotion_is_followed_and_no_request_fails(make_champions: Callable[[int], None], project: Path) -> None:
    make_champions(2)
    name = load_params().register_.name
    client = store.client()
    numbers = sorted(int(version.version) for version in all_versions(client, name))
    assert len(numbers) >= 2
    failed: list[BaseException] = []
    answered: set[str] = set()
    ended = threading.Event()

    def ask(address: str) -> None:
        api = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        while not ended.is_set():
            try:
                chunks = list(api.completions.create(model=name, prompt="to be", max_tokens=8, stream=True))
                assert chunks[-1].choices[0].finish_reason
                answered.update(chunk.model for chunk in chunks)
                assert len({chunk.model for chunk in chunks}) == 1, "an answer ends with the model that it began with"
            except BaseException as error:
                failed.append(error)
                return

    with running_server(project, [f"models:/{name}@{CHAMPION}"]) as server:
        threads = [threading.Thread(target=ask, args=(server.address,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        api = OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)
        try:
            for turn in range(6):
                number = numbers[turn % 2]
                client.set_registered_model_alias(name, CHAMPION, str(number))
                reply = api.completions.create(model=f"models:/{name}@{CHAMPION}", prompt="to", max_tokens=2)
                assert reply.model == f"{name}/{number}"
                other = f"{name}/{numbers[(turn + 1) % 2]}"
                assert api.completions.create(model=other, prompt="to", max_tokens=2).model == other, "by its number"
            listed = list(api.models.list())
            assert listed[0].id == f"{name}/{numbers[1]}"
            assert {f"{name}/{number}" for number in numbers} <= {model.id for model in listed}
            away = project / "mlflow.db"
            away.rename(project / "away.db")
            reply = api.completions.create(model=name, prompt="to", max_tokens=2)
            assert reply.model == listed[0].id, "what is loaded goes on answering"
        finally:
            ended.set()
            for thread in threads:
                thread.join(timeout=60)
        assert not failed
        assert answered == {f"{name}/{number}" for number in numbers[:2]}
        assert "goes on answering" in server.said


def test_what_cannot_be_served_is_told_at_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in [
        (["--model", "models:/nobody@champion"], "nobody"),
        (["--model", str(project / "nothing")], "config.json: not found"),
        (["--port", "0", "--host", "no.such.host.invalid"], "cannot be served"),
        (["--api-key-file", "nothing.txt"], "no file of keys"),
    ]:
        assert main(["serve", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    (project / "keys.txt").write_text("short\n")
    assert main(["serve", "--api-key-file", "keys.txt"]) == 2
    assert "fewer than 8 characters" in capsys.readouterr().err
