"""What registering says and uploads shows no secret, and what would show one is refused before it is uploaded."""

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.server import free_port
from gpt.commands.main import main
from gpt.params.project import load_params
from gpt.registry.disclosure import check_project
from gpt.registry.git import read_code
from gpt.registry.package import register
from gpt.registry.versions import find_version
from gpt.tracking import store
from tests.registry.test_lineage import git, repository

__all__ = ["repository"]
SECRET = "s3cr3t" + "Xk7vQ2pL9"


def hits(folder: Path) -> list[str]:
    """Return the files below a folder that hold the secret."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.fixture
def store_with_secret(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the project's store, with a secret that sqlite does not look at."""
    uri = f"sqlite:///{project}/mlflow.db?timeout=30&token={SECRET}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def test_the_password_of_the_store_is_nowhere(
    project: Path, store_with_secret: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["register", "--json"]) == 0
    said = capfd.readouterr()
    registered = json.loads(said.out.splitlines()[-1])
    assert registered["tracking_uri"] == store_with_secret.replace(SECRET, "***")
    assert (registered["name"], registered["version"]) == ("small-gpt", 1)
    for command in (["lineage"], ["promote"], ["lineage", "models:/none/3"], ["rollback"], ["doctor"], ["sync"]):
        main(command)
    after = capfd.readouterr()
    assert f"not in {registered['tracking_uri']}; it has" in after.err
    assert registered["tracking_uri"] in after.out, "doctor names it"
    assert SECRET not in said.out + said.err + after.out + after.err
    assert hits(project) == []


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://mlflow:{}@127.0.0.1:{}/mlflow",
        "postgresql+psycopg2://mlflow:{}%40%2F@127.0.0.1:{}/mlflow?sslmode=require",
        "mysql+pymysql://mlflow:{}/x@127.0.0.1:{}/mlflow",
        "http://mlflow:{}@127.0.0.1:{}",
        "https://{}@127.0.0.1:{}/mlflow?token=x",
        "oracle://mlflow:{}@127.0.0.1:{}/mlflow",
    ],
)
@pytest.mark.parametrize("command", ["register", "doctor"])
def test_a_store_that_is_away_is_named_without_its_password(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], uri: str, command: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(SECRET, free_port()))
    assert main([command]) == 2
    said = capfd.readouterr()
    assert "127.0.0.1" in said.out + said.err
    assert SECRET not in said.out + said.err
    assert "Traceback" not in said.err


def test_a_version_of_an_earlier_release_shows_none_either(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register(load_params(), project)
    client = store.client()
    client.set_model_version_tag("small-gpt", "1", "source", f"https://me:{SECRET}@host/a.zip")
    assert main(["lineage"]) == 0
    assert "https://me:***@host/a.zip" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line", [f'KEY = "hf_{SECRET * 3}"', f'URI = "mysql://u:{SECRET}@h/d"', f'password = "{SECRET}"']
)
def test_a_secret_in_uncommitted_code_is_named_before_it_is_uploaded(
    repository: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    (repository / "gpt/model.py").write_text(f"layers = 2\n\n{line}\n")
    assert main(["register"]) == 2
    said = capsys.readouterr()
    assert "error: gpt/model.py: line 3 seems to hold " in said.err
    assert "environment" in said.err
    assert SECRET not in said.out + said.err
    assert store.client().search_registered_models() == []
    assert hits(repository / "mlartifacts") == []

    git(repository, "commit", "-am", "as it is")
    (repository / "gpt/model.py").write_text("layers = 2\n")
    assert main(["register"]) == 2, "a patch shows what it removes"
    assert "gpt/model.py: line 3 seems to hold " in capsys.readouterr().err
    git(repository, "commit", "-am", "removed")
    assert main(["register"]) == 0
    assert hits(repository / "mlartifacts") == []


def test_a_new_file_of_code_and_a_lock_are_looked_through_too(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "gpt/new.py").write_text(f'\nTOKEN = "ghp_{SECRET * 3}"\n')
    (repository / "requirements.lock").write_text(
        f"--extra-index-url https://me:{SECRET}@index.host/simple\ntorch==2.13.0\n"
    )
    assert main(["register"]) == 2
    said = capsys.readouterr().err
    assert "gpt/new.py: line 2 seems to hold a GitHub token" in said
    assert "requirements.lock: line 1 seems to hold a password in an address" in said
    assert SECRET not in said


def test_ordinary_changes_are_no_secrets(repository: Path) -> None:
    """The code of this project, as if all of it were new, and another params.yaml."""
    package = Path(main.__code__.co_filename).parents[1]
    shutil.copytree(package, repository / "gpt", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (repository / "params.yaml").write_text((repository / "params.yaml").read_text() + "# a remark\n")
    check_project(repository)
    assert read_code(repository).dirty, "there was something to look through"


@pytest.mark.parametrize(
    "command", [["inputs"], ["fetch"], ["prepare"], ["register"], ["promote"], ["generate", "a"], ["doctor"]]
)
def test_every_command_refuses_settings_that_hold_a_secret(
    project: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    values = YAML().load((project / "params.yaml").read_text())
    values["fetch"]["sources"] = [
        {
            "name": "a",
            "kind": "url",
            "url": f"https://me:{SECRET}@host/a.txt",
            "sha256": "0" * 64,
            "members": [],
            "licence": "x",
        }
    ]
    with (project / "params.yaml").open("w") as file:
        YAML().dump(values, file)
    shutil.rmtree(project / "data")
    assert main(command) == 2
    said = capsys.readouterr()
    number = next(n for n, line in enumerate((project / "params.yaml").read_text().splitlines(), 1) if SECRET in line)
    assert (
        f"params.yaml: line {number} seems to hold a password in an address".removeprefix("params.yaml: ")
        in said.out + said.err
    )
    assert "~/.netrc" in said.out + said.err
    assert SECRET not in said.out + said.err
    assert not (project / "data").exists()


def test_tags_of_a_version_hold_no_secret(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = json.loads((project / "models/run.json").read_text())
    (project / "models/run.json").write_text(json.dumps(run | {"hardware": f"a machine at ssh://me:{SECRET}@host"}))
    register(load_params(), project)
    assert find_version(store.client(), "models:/small-gpt/1").tags["hardware"] == "a machine at ssh://me:***@host"
    assert hits(project / "mlartifacts") == []
    assert SECRET.encode() not in (project / "mlflow.db").read_bytes()
