"""`gpt generate`: prompts from standard input, a talk, and what it offers where there is no model of the project's own."""

import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt import paths
from gpt.commands.line.talk import _remembered_lines
from gpt.commands.main import main
from gpt.model.generation import generate_text
from gpt.model.sampling import Sampling
from gpt.model.storage import load_model
from tests import ROOT
from tests.tracking.terminal.screen import run_in_terminal

SHORT = ("--max-new-tokens", "5", "--temperature", "0.8", "--seed", "3")
TALK = """
import sys, time
from gpt.commands.line.talk import TextTalk, talk

def write(text, turn):
    for number in range(1000 if text.endswith("long") else 2):
        yield f"[{turn}.{number}:{len(text)}]"
        time.sleep(0.01)
    yield "\\x1b[2J"

talk(TextTalk(write))
print("left")
"""


@pytest.fixture
def project(trained_project: Path, copy_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return copy_project(trained_project)


def type_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_prompt_comes_from_standard_input(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "a\nb", *SHORT]) == 0
    expected = capsys.readouterr().out
    assert expected.startswith("a\nb")
    type_in(monkeypatch, b"a\nb\n")
    assert main(["generate", "-", *SHORT]) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("data", [b"", b"\n"])
def test_an_empty_standard_input_is_told(
    data: bytes, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, data)
    assert main(["generate", "-"]) == 2
    assert capsys.readouterr().err == "error: -: nothing came from standard input\n"


def test_a_talk_goes_on_with_all_that_was_said_until_new(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, encoding = load_model(paths.BASE_MODEL)

    def answer(text: str, turn: int) -> str:
        sampling = Sampling(5, temperature=0.8, top_k=200, seed=3 + turn)
        return "".join(generate_text(model, encoding, text, sampling))

    type_in(monkeypatch, b"ab\n\nc\n/new\nab\n")
    assert main(["generate", "--interactive", "--top-k", "200", *SHORT]) == 0
    first = answer("ab", 0)
    second = answer("ab" + first, 1)
    said = f"ab{first}{second}"
    third = answer(f"{said}\nc" if not said.endswith("\n") else f"{said}c", 2)
    assert capsys.readouterr().out == f"{first}\n{second}\n{third}\n{answer('ab', 3)}\n"


def test_a_talk_can_begin_with_a_prompt_but_not_with_two(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, b"")
    assert main(["generate", "ab", "-i", *SHORT]) == 0
    talked = capsys.readouterr().out
    assert main(["generate", "ab", *SHORT]) == 0
    assert talked == capsys.readouterr().out
    assert main(["generate", "ab", "cd", "-i"]) == 2
    assert capsys.readouterr().err == "error: --interactive: a talk begins with one prompt, or with none\n"


def test_in_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_leaves(tmp_path: Path) -> None:
    steps = [
        ("> ", b"long\r"),
        ("[0.5:4]", b"\x03"),
        ("> ", b"half a li"),
        ("half a li", b"\x03"),
        ("(Ctrl-D leaves)", b"ok\r"),
        ("J\r\n> ", b"\x04"),
    ]
    seen, before, pressed = 0, 0, b""

    def answer(written: str, terminal: int, process: int) -> None:
        nonlocal seen, before, pressed
        if steps and steps[0][0] in written[seen:]:
            seen, pressed = len(written), steps.pop(0)[1]
            os.write(terminal, pressed)
        # Of a Ctrl-C between prompt and wait Python's input() hears with the next key: a person presses it again.
        elif pressed == b"\x03" and len(written) == before:
            os.write(terminal, pressed)
        before = len(written)

    environment = {"PYTHONPATH": str(ROOT), "TERM": "xterm", "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    code, written = run_in_terminal(
        [sys.executable, "-c", TALK], environment=environment, folder=tmp_path, columns=2000, answer=answer
    )
    assert code == 0
    assert not steps
    text = written.replace("\x1b[?2004h", "").replace("\x1b[?2004l", "")
    assert "[0.999" not in text
    assert "\x1b[2J" not in written and "�[2J" in text, "what a model writes clears no screen"
    assert text.rstrip().endswith("left")
    stopped = text.split("> long")[1].split("> ")[0]
    said = len("long" + "".join(stopped.replace("^C", "").split()))
    assert f"[1.0:{said + 3}]" in text, "what was written before Ctrl-C counts"
    (history,) = (tmp_path / ".cache").rglob("history")
    assert history.stat().st_mode & 0o777 == 0o600
    assert "long" in history.read_text(encoding="utf-8").splitlines()


def test_without_a_model_of_its_own_the_command_for_the_registered_one_is_told(
    project: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(paths.BASE_MODEL)
    assert main(["generate", "a"]) == 2
    alone = "error: models/base/config.json: not found; run `gpt pretrain`, or name a model with --model"
    assert capsys.readouterr().err == f"{alone}\n"
    shutil.copyfile(empty_store, project / "mlflow.db")
    assert main(["generate", "a"]) == 2
    assert capsys.readouterr().err == f"{alone}\n"
    from gpt.params.project import load_params
    from gpt.tracking import store

    name = load_params().register_.name
    client = store.client()
    client.create_registered_model(name)
    client.create_model_version(name, str(project / "x"))
    for alias in ("candidate", "champion"):  # the champion is better, where there is one
        client.set_registered_model_alias(name, alias, "1")
        assert main(["generate", "it's so", "b"]) == 2
        uri = f"models:/{name}@{alias}"
        said = f"{alone}; {uri} is registered: gpt generate 'it'\"'\"'s so' b --model {uri}\n"
        assert capsys.readouterr().err == said


def test_lines_that_cannot_be_remembered_end_no_talk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GPT_CACHE", str(tmp_path))
    (tmp_path / "talks/history").mkdir(parents=True)  # where the file would be
    with _remembered_lines(is_person=True):
        talked = True
    assert talked
    assert "earlier lines cannot be called up" in caplog.messages[0]
    assert "not remembered" in caplog.messages[1]
