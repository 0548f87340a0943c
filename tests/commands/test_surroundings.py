"""The `gpt` command wherever it is started: in a subfolder, in any locale, with arguments of any bytes, with wrong servers."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt.commands.checks import servers
from gpt.commands.main import main
from tests import ROOT

ASCII = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
GENERATE = ("generate", "--max-new-tokens", "3", "--temperature", "0")


def run(*arguments: str | bytes, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """Run `gpt` in a process of its own, in the current folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-m", "gpt", *arguments],
        env=kept | {"PYTHONPATH": str(ROOT)} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )


@pytest.fixture
def project(trained_project: Path, copy_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a model; the current folder."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    return copy_project(trained_project)


def test_a_command_in_a_subfolder_works_on_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inputs"]) == 0
    (project / "docs" / "images").mkdir(parents=True)
    monkeypatch.chdir(project / "docs" / "images")
    assert main(["tokens", "show", "--sequences", "1"]) == 0
    assert "step 0, sequence 1" in capsys.readouterr().out
    shutil.rmtree(project / "data" / "inputs")
    monkeypatch.chdir(project / "docs")
    assert main(["inputs"]) == 0
    assert (project / "data" / "inputs" / "pretrain.json").exists()
    assert [path.name for path in (project / "docs").iterdir()] == ["images"]


def test_typed_paths_are_from_where_the_user_stands(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, arguments in enumerate((["--model", "../models/base"], [], ["--model", f"{project}/models/base"])):
        (project / "docs").mkdir(exist_ok=True)
        monkeypatch.chdir(project / "docs")
        assert main(["export", f"out{number}", *arguments]) == 0
        assert (project / "docs" / f"out{number}" / "config.json").exists()
    capsys.readouterr()
    monkeypatch.chdir(project / "docs")
    assert main(["generate", "a", "--model", "models/base"]) == 2
    assert f"{project}/docs/models/base/config.json: not found" in capsys.readouterr().err
    monkeypatch.chdir(project / "docs")
    assert main(["pretrain", "--adopt", "checkpoints/x"]) == 2
    assert f"--adopt {project}/docs/checkpoints/x: no folder" in capsys.readouterr().err


def test_outside_a_project_the_error_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prepare"]) == 2
    assert f"params.yaml: not found in {tmp_path} or above" in capsys.readouterr().err


def test_any_locale_shows_any_text(project: Path) -> None:
    # Neither Python nor torch starts from a path that the locale cannot hold.
    ascii_only = ASCII if sys.prefix.isascii() else {"PYTHONIOENCODING": "ascii:strict"}
    for environment, arguments in (
        (ascii_only, ("tokens", "show", "--sequences", "1")),
        (ascii_only, (*GENERATE, "Ünü│ 王")),
        ({"PYTHONIOENCODING": "latin-1:strict"}, (*GENERATE, "naïve", "王")),
    ):
        result = run(*arguments, **environment)
        assert result.returncode == 0, result.stderr.decode()
        assert result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*GENERATE, b"to\xffbe"), "to�be"),
        ((*GENERATE, "to be", "--stop", b"\xff"), "to be"),
        ((*GENERATE, "to", "--model", b"\xff/base"), "error: \\xff/base/config.json: not found"),
        (("export", b"out\xff"), "out\\xff: "),
        (("import", b"\xff"), "error: \\xff"),
        (("lineage", b"models:/\xff/1"), "error: models:/�/1: not in sqlite"),
        (("pretrain", "--adopt", b"\xff"), "error: --adopt \\xff: no folder"),
        (("data", "diff", b"\xff"), "error: "),
    ],
)
def test_arguments_that_are_no_text_are_taken_or_refused(
    project: Path,
    empty_store: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str | bytes, ...],
    said: str,
) -> None:
    shutil.copyfile(empty_store, project / "mlflow.db")
    assert main([os.fsdecode(argument) for argument in arguments]) in (0, 2)
    output, errors = capsys.readouterr()
    assert said in output + errors


def test_a_command_that_is_no_text_is_refused() -> None:
    result = run(b"\xff")
    assert result.returncode == 2
    assert result.stderr.startswith(b"error: no command ")


@pytest.mark.parametrize("uri", ["http://127.0.0.1:PORT", "sqlite:mlflow.db", "127.0.0.1:5055"])
def test_every_command_that_needs_a_store_names_the_variable_of_an_address_that_is_none(
    project: Path, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    before = {path.name for path in project.iterdir()}
    looking = (["lineage"], ["promote"], ["rollback"], ["generate", "a", "--model", "@champion"])
    for command in (*looking, ["pretrain"], ["evaluate"], ["report"]):
        assert main(command) == 2, command
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith(f"error: MLFLOW_TRACKING_URI = '{uri}': "), command
    assert {path.name for path in project.iterdir()} == before


@pytest.mark.parametrize("command", [["lineage"], ["promote"], ["rollback"], ["generate", "a", "--model", "@champion"]])
def test_a_command_that_looks_for_a_version_makes_no_store(
    project: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name for path in project.iterdir()}
    assert main(command) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert {path.name for path in project.iterdir()} == before


def test_a_variable_that_mlflow_cannot_read_is_named(
    project: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(empty_store, project / "mlflow.db")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "soon")
    assert main(["lineage"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: MLFLOW_HTTP_REQUEST_TIMEOUT = 'soon': ")


# Doctor: what it says of servers. The whole command measures for seconds.


def found() -> dict[str, tuple[str, str]]:
    return {subject: (kind, text) for kind, subject, text in servers.servers()}


def test_doctor_only_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    assert found()["MLflow"][0] == found()["Prefect"][0] == "ok"
    assert "which the first run makes" in found()["MLflow"][1]
    assert not any(tmp_path.iterdir())
    (tmp_path / "mlflow.db").touch()
    assert found()["MLflow"][0] == "ok", "MLflow fills an empty file"
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("mlflow.db", 0)]


def test_doctor_leaves_a_store_as_it_is_and_knows_its_version(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    file = tmp_path / "mlflow.db"
    shutil.copyfile(empty_store, file)
    before = file.read_bytes()
    assert found()["MLflow"] == ("ok", f"sqlite:///{file} (no server needed)")
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    for version, said in (("451aebb31d03", "made by an older MLflow"), ("0123456789ab", "made by a newer MLflow")):
        with sqlite3.connect(file) as database:
            database.execute("update alembic_version set version_num = ?", [version])
        assert found()["MLflow"][0] == "missing"
        assert said in found()["MLflow"][1]
    file.write_bytes(b"SQLite format 3\0 and nothing more of one")
    assert "cannot be read" in found()["MLflow"][1]
    file.unlink()
    with sqlite3.connect(file) as database:
        database.execute("create table other (a)")
    assert "not a database of MLflow's" in found()["MLflow"][1]


@pytest.mark.parametrize(
    ("variable", "value", "subject", "said"),
    [
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:PORT", "MLflow", "MLFLOW_TRACKING_URI = "),
        ("MLFLOW_REGISTRY_URI", "127.0.0.1:5000", "MLflow", "MLFLOW_REGISTRY_URI = "),
        ("PREFECT_API_URL", "http://127.0.0.1:PORT", "Prefect", "PREFECT_API_URL = "),
        ("PREFECT_API_URL", "127.0.0.1:4200/api", "Prefect", "was http://127.0.0.1:4200/api meant?"),
        ("PREFECT_HOME", "/dev/null/x", "Prefect", "PREFECT_HOME = /dev/null/x: /dev/null is no folder"),
        ("ALL_PROXY", "socks://127.0.0.1:1", "Prefect", "was socks5://127.0.0.1:1 meant?"),
    ],
)
def test_doctor_names_the_variable_that_is_wrong(
    variable: str, value: str, subject: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(variable.lower(), raising=False)  # of a proxy it would be the one that counts
    monkeypatch.setenv(variable, value)
    kind, text = found()[subject]
    assert kind == "missing"
    assert said in text


def test_doctor_tells_of_a_proxy_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", *(name for name in os.environ if name.lower().endswith("_proxy"))):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cret@proxy.example:3128")
    assert found()["proxy"] == (
        "note",
        "HTTPS_PROXY=http://proxy.example:3128; servers of this machine are asked without it",
    )
