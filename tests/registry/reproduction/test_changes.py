"""What changed in a project since a version was made is named, and what decides nothing is told apart. Nothing runs."""

import copy
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gpt import code
from gpt.files import sha256_file
from gpt.registry.packages import installed_packages, locked_packages
from gpt.registry.record import Record
from gpt.registry.reproduction.changes import find_changes
from tests.registry.test_lineage import git

LOCK = b"# made by hand\nnumpy==2.4.0\n    # via torch\ntorch==2.13.0\nwindows-only==1.0 ; sys_platform == 'win32'\n"


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def keep_in_cache(project: Path, content: bytes, ending: str = "") -> str:
    """Put a file into the project's DVC cache; return its hash."""
    digest = md5(content) + ending
    path = project / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return digest


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with settings, a local source, what was fetched of it, texts around, and code that runs here."""
    folder = tmp_path / "a project, ü"
    for name in (".dvc", "docs", "gpt", "data/raw/made-up"):
        (folder / name).mkdir(parents=True)
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    (folder / ".gitignore").write_text("/data\n/text.txt\n/.dvc/cache\n/.dvc/tmp\n")
    (folder / "docs/how.md").write_text("this way\n")
    (folder / "gpt/files.py").write_text("CHUNK = 1\n")
    (folder / "requirements.lock").write_bytes(LOCK)
    for name in ("text.txt", "data/raw/made-up/text.txt"):
        (folder / name).write_text("to be")
    source = {"name": "made-up", "kind": "local", "path": "text.txt", "licence": "none"}
    params = {
        "base": {"name": "small", "seed": 1},
        "fetch": {"sources": [source | {"sha256": sha256_file(folder / "text.txt")}], "benchmarks": []},
        "prepare": {"shards": 1, "engine": {"kind": "local", "workers": 1}},
        "train": {"learning_rate": 0.1, "checkpoint_interval": 5},
        "launch": {"num_processes": 1, "timeout_seconds": 600},
        "register": {"name": "small"},
    }
    YAML().dump(params, folder / "params.yaml")
    git(folder, "init")
    git(folder, "add", "-A")
    git(folder, "commit", "-m", "begin")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def record(project: Path) -> Record:
    """Its record, with the packages and the code that are here."""
    params = YAML(typ="safe").load(project / "params.yaml")
    (source,) = params["fetch"]["sources"]
    entry = keep_in_cache(project, b"to be")
    listing = json.dumps([{"md5": entry, "relpath": "made-up/text.txt"}]).encode()
    outs = {"data/raw": {"hash": keep_in_cache(project, listing, ".dir"), "size": 5}}
    stages = {
        "fetch": {"deps": {"data/inputs/fetch.json": {}}, "params": {}, "outs": outs},
        "prepare": {"deps": outs, "params": {"prepare.shards": 1}, "outs": {"data/documents": {}}},
        "data_card": {
            "deps": {"a": {}},
            "params": {"register": {}, "base.name": ""},
            "outs": {"reports/data.html": {}},
        },
        "pretrain": {
            "deps": {"data/documents": {}},
            "params": {"base.seed": 1, "train.learning_rate": 0.1},
            "outs": {"models/base": {}},
        },
    }
    values: dict[str, Any] = {
        "code": {"commit": git(project, "rev-parse", "HEAD")},
        "params": params,
        "sources": [source | {"role": "text", "address": source["path"]}],
        "stages": stages,
        "inputs": {"pretrain": copy.deepcopy(code.stage_identity("pretrain"))},
        "environment": {"packages": installed_packages()},
    }
    return Record(values, {"requirements.lock": LOCK})


def set_param(project: Path, section: str, **values: object) -> None:
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    params[section] |= values
    yaml.dump(params, project / "params.yaml")


def append(path: str, content: str) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        with (project / path).open("a") as file:
            file.write(content)

    return change


def of_source(**values: object) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        source = YAML(typ="safe").load(project / "params.yaml")["fetch"]["sources"][0]
        set_param(project, "fetch", sources=[source | values])

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda project: set_param(project, "train", learning_rate=0.2), ["train.learning_rate was 0.1, is 0.2"]),
        (lambda project: set_param(project, "base", seed=2), ["base.seed was 1, is 2"]),
        (lambda project: set_param(project, "launch", num_processes=2), ["launch.num_processes was 1, is 2"]),
        (of_source(kind="url"), ['fetch.sources.made-up.kind was "local", is "url"']),
        (
            of_source(name="other"),
            ["source made-up: is not in params.yaml any more", "source other: is new in params.yaml"],
        ),
        (append("text.txt", "!"), ["text.txt had sha256 "]),
        (lambda project: (project / "text.txt").unlink(), ["text.txt had sha256 ", "and is gone"]),
        (append("data/raw/made-up/text.txt", "!"), [f"data/raw/made-up/text.txt: md5 was {md5(b'to be')}, is "]),
        (
            lambda project: (project / "requirements.lock").write_bytes(LOCK.replace(b"numpy==2.4.0", b"")),
            ["requirements.lock: numpy was 2.4.0, is not in it"],
        ),
        (
            lambda project: (project / "requirements.lock").write_bytes(LOCK.replace(b"2.4.0", b"2.4.1")),
            ["requirements.lock: numpy was 2.4.0, is 2.4.1"],
        ),
    ],
)
def test_the_very_thing_that_changed_is_named_and_no_other(
    project: Path, record: Record, change: Callable[[Path], object], said: list[str]
) -> None:
    change(project)
    changes = find_changes(record, project)
    assert changes.around == []
    for part in said:
        assert len([line for line in changes.deciding if part in line]) == 1, part
    assert len(changes.deciding) == len({line for part in said for line in changes.deciding if part in line})
    assert "this differs from its record now" in changes.describe("models:/small/1")
    assert "what is made again does without" in changes.announce()


def test_each_package_and_each_line_of_code_that_is_another_is_named(project: Path, record: Record) -> None:
    packages = record.values["environment"]["packages"]
    for name in packages:
        packages[name] = "0"
    file = "gpt/training/steps/optimizer.py"
    record.values["inputs"]["pretrain"]["code"][file] = "another hash"
    changes = find_changes(record, project)
    assert len([line for line in changes.deciding if line.startswith("package ")]) == len(packages)
    assert f"{file}: computes otherwise" in changes.deciding


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (append("docs/how.md", "or that\n"), "docs/how.md"),
        (append("gpt/files.py", "OTHER = 2\n"), "gpt/files.py"),
        (append("requirements.lock", "ftfy==6.3\n"), "requirements.lock: ftfy was not in it, is 6.3"),
        (of_source(licence="CC0"), 'params.yaml: fetch.sources.made-up.licence was "none", is "CC0"'),
        (lambda project: set_param(project, "register", name="x"), 'params.yaml: register.name was "small", is "x"'),
        (lambda project: set_param(project, "base", name="x"), 'params.yaml: base.name was "small", is "x"'),
        (
            lambda project: set_param(project, "train", checkpoint_interval=7),
            "params.yaml: train.checkpoint_interval was 5, is 7",
        ),
        (
            lambda project: set_param(project, "prepare", engine={"kind": "local", "workers": 2}),
            "params.yaml: prepare.engine.workers was 1, is 2",
        ),
    ],
)
def test_what_decides_no_byte_is_told_apart(
    project: Path, record: Record, change: Callable[[Path], object], said: str
) -> None:
    change(project)
    changes = find_changes(record, project)
    assert (changes.deciding, changes.around) == ([], [said])
    told = changes.describe("models:/small/1").splitlines()
    assert told[0] == "models:/small/1: settings, sources, code and packages are those of its record"
    assert told[1:] == ["changed since, and decides no byte of the model:", f"  {said}"]


def test_nothing_has_changed_is_said_so_also_of_a_later_commit_and_of_uncommitted_code(
    project: Path, record: Record
) -> None:
    assert find_changes(record, project).announce() == ""
    append("docs/how.md", "or that\n")(project)
    patch = subprocess.run(["git", "diff", "--binary", "HEAD"], cwd=project, capture_output=True, check=True).stdout
    with_patch = Record(record.values, record.files | {"uncommitted.patch": patch})
    assert find_changes(with_patch, project).around == []
    git(project, "commit", "-qam", "later")
    assert find_changes(with_patch, project).around == []
    assert find_changes(record, project).around == ["docs/how.md"]
    assert git(project, "status", "--porcelain") == ""


def test_a_commit_that_is_not_here_hides_nothing_else(project: Path, record: Record) -> None:
    record.values["code"]["commit"] = "0123456789" * 4
    set_param(project, "base", seed=2)
    assert find_changes(record, project).deciding == ["params.yaml: base.seed was 1, is 2"]


def test_of_a_lock_the_packages_of_this_machine_count() -> None:
    assert locked_packages(LOCK) == {"numpy": "2.4.0", "torch": "2.13.0"}
    hashed = b"A_B==1.0 \\\n    --hash=sha256:abc \\\n    --hash=sha256:def\n-e .\n\xff\n"
    assert locked_packages(hashed) == {"a-b": "1.0"}
