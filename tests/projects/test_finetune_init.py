"""`gpt finetune init` makes a recipe of labelled data, or says in one message why not and leaves nothing behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt.commands.main import main
from gpt.errors import UserError
from gpt.files import sha256_file
from gpt.finetuning.finetune import finetune, make_data
from gpt.finetuning.judging.evaluate import evaluate
from gpt.params.finetuning import FOLDER, load_recipe
from gpt.params.project import load_params
from gpt.reports.finetuned import write_report
from tests import ROOT
from tests.finetuning.conftest import make_recipe  # noqa: F401
from tests.projects.test_templates import load_yaml
from tests.training.conftest import fresh_accelerate, make_project  # noqa: F401

Row = dict[str, Any]
REVIEW = {"id": 1, "Review": "it is {}", "Sentiment": "good"}
TALK = {"messages": [{"role": "user", "content": "who is {}?"}, {"role": "assistant", "content": "I"}]}
CHOICE = {"prompt": "who is {}?", "chosen": "I", "rejected": "no"}
ANSWER = {"prompt": "who is {}?", "completion": "I"}
QUESTION = {"question": "who is {}?", "answer": "I"}
ROWS: list[tuple[str, Row, str, str, dict[str, str]]] = [
    ("a.csv", REVIEW, "text_label", "classify", {"text": "Review", "label": "Sentiment"}),
    ("a.jsonl", ANSWER, "prompt_completion", "instruct", {}),
    ("a.jsonl", QUESTION, "prompt_completion", "instruct", {"prompt": "question", "completion": "answer"}),
    ("a.json", {"instruction": "add {}", "input": "1", "output": "2"}, "alpaca", "instruct", {}),
    ("a.jsonl", TALK, "messages", "instruct", {}),
    ("a.jsonl", CHOICE, "preference", "preference", {}),
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a project"
    folder.mkdir()
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


def write_rows(path: Path, *kinds: Row, count: int = 40) -> Path:
    rows = [json.loads(json.dumps(kinds[number % len(kinds)]).replace("{}", str(number))) for number in range(count)]
    if path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, each.values())) for each in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(("file", "row", "form", "task", "fields"), ROWS)
def test_a_file_says_by_the_names_of_its_fields_what_is_learned(
    project: Path, file: str, row: Row, form: str, task: str, fields: dict[str, str], method: str
) -> None:
    data = write_rows(project / file, row)
    assert main(["finetune", "init", "own", "--data", file, "--base", "models:/x@champion", "--method", method]) == 0
    recipe = load_recipe("own")
    assert (recipe.data.form, recipe.task.kind, recipe.data.fields) == (form, task, fields)
    assert (recipe.base, recipe.method.kind) == ("models:/x@champion", method)
    (source,) = recipe.data.sources
    assert source.identity == sha256_file(data)


def test_keys_have_the_comments_of_the_committed_recipes_and_no_others(project: Path) -> None:
    write_rows(project / "a.jsonl", CHOICE)
    assert main(["finetune", "init", "own", "--data", "a.jsonl"]) == 0
    text = (FOLDER / "own.yaml").read_text(encoding="utf-8")
    assert text.startswith("# The better of two answers, by DPO. Made by `gpt finetune init`.\n")
    known = (ROOT / "finetuning/chat.yaml").read_text(encoding="utf-8").splitlines()
    said = {line.partition("# ")[2] for line in text.splitlines()[2:] if "# " in line}
    assert said - {line.partition("# ")[2] for line in known} == {
        "of DPO: how dear it is to move away from the base model"
    }
    assert "\n\nmethod:" in text


def test_the_first_recipe_of_a_project_brings_the_stages_and_others_join(project: Path) -> None:
    write_rows(project / "a.jsonl", ANSWER)
    for name in ("one", "two", "three"):
        assert main(["finetune", "init", name, "--data", "a.jsonl"]) == 0
    own, committed = load_yaml(project / "finetuning/dvc.yaml"), load_yaml(ROOT / "finetuning/dvc.yaml")
    assert own["vars"] == [{"recipes": ["one", "two", "three"]}]
    for name, stage in committed["stages"].items():
        command = own["stages"][name]["do"].pop("cmd")
        assert command == stage["do"].pop("cmd").replace(
            '"\\${VIRTUAL_ENV:-.venv}/bin/gpt"', '"\\${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/}gpt"'
        )
        assert own["stages"][name] == stage
    assert (project / "finetuning/.dvc/config.local").is_file(), "there is no git"
    for name in (".gitignore", ".dvc/config"):
        assert (project / "finetuning" / name).read_bytes() == (ROOT / "finetuning" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("has_git", [True, False])
def test_dvc_takes_the_folder_of_recipes_with_git_and_without(project: Path, has_git: bool) -> None:
    if has_git:
        subprocess.run(["git", "init", "--quiet"], check=True)
    write_rows(project / "a.jsonl", ANSWER)
    assert main(["finetune", "init", "own", "--data", "a.jsonl"]) == 0
    dvc = [sys.executable, "-m", "dvc", "--cd", "finetuning"]
    said = subprocess.run([*dvc, "stage", "list"], capture_output=True, text=True, check=True).stdout
    assert "finetune@own" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["own", "--data", "none.csv"], "none.csv: not found"),
        (["own", "--data", "few.jsonl"], "holds 19 examples"),
        (["own", "--data", "odd.jsonl"], "names of their fields, a, b"),
        (["own", "--data", "odd.jsonl", "--field", "text=c"], "there is no c; a row has a, b"),
        (["own", "--data", "odd.jsonl", "--field", "text"], "--field text: must be FIELD=COLUMN"),
        (["own", "--data", "odd.jsonl", "--field", "prompt=a", "--field", "label=b"], "say which are which"),
        (["own", "--data", "late.jsonl"], "late.jsonl, line 30"),
        (["dvc", "--data", "whole.jsonl"], "dvc: must be"),
        (["../own", "--data", "whole.jsonl"], "../own: must be"),
        (["there", "--data", "whole.jsonl"], "finetuning/there.yaml: is there already"),
    ],
)
def test_what_cannot_be_is_told_and_leaves_nothing_behind(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    row = ANSWER
    write_rows(project / "whole.jsonl", row)
    write_rows(project / "few.jsonl", row, count=19)
    write_rows(project / "odd.jsonl", {"a": "who is {}?", "b": "I"})
    late = write_rows(project / "late.jsonl", row, count=29)
    late.write_text(late.read_text(encoding="utf-8") + '{"prompt": "x"}\n', encoding="utf-8")
    assert main(["finetune", "init", "there", "--data", "whole.jsonl"]) == 0
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert main(["finetune", "init", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_an_older_recipe_is_told_where_the_key_that_it_lacks_is_to_be_seen(project: Path) -> None:
    write_rows(project / "a.jsonl", ANSWER)
    assert main(["finetune", "init", "own", "--data", "a.jsonl"]) == 0
    recipe = FOLDER / "own.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("  split_seed: 1\n", ""), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"own\.yaml: data\.split_seed is missing; add it: .*`gpt finetune init` writes"
    ):
        load_recipe("own")


def test_a_file_is_looked_for_where_the_user_stands(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "examples").mkdir()
    write_rows(project / "examples/a.jsonl", ANSWER)
    monkeypatch.setenv("PWD", str(project / "examples"))
    os.chdir(project / "examples")
    assert main(["finetune", "init", "own", "--data", "a.jsonl"]) == 0
    monkeypatch.chdir(project)
    (source,) = load_recipe("own").data.sources
    assert getattr(source, "path", "") == "examples/a.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "rows"),
    [("own.csv", [REVIEW, REVIEW | {"Sentiment": "bad"}]), ("own.jsonl", [TALK]), ("own.jsonl", [CHOICE])],
    ids=["classify", "instruct", "preference"],
)
def test_the_recipe_trains_as_it_was_written(
    make_recipe: Callable[..., Path],  # noqa: F811
    file: str,
    rows: list[Row],
) -> None:
    write_rows(make_recipe("instruct") / file, *rows, count=120)
    assert main(["finetune", "init", "own", "--data", file, "--base", "models/start"]) == 0
    make_data("own", load_params())
    finetune("own", load_params())
    assert evaluate("own")["examples"] > 0
    assert write_report("own").is_file()
