"""`gpt data add`, `gpt data hash` and `gpt fetch --accept`: what they write into params.yaml, and what they refuse."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gpt.commands.checks.sources import sources as doctor
from gpt.commands.main import main
from gpt.params.changes.editing import Values, read_sources
from gpt.params.changes.lines import set_value
from gpt.params.project import load_params
from gpt.projects.inputs import describe_inputs
from gpt.sources.stores.address import HubAddress, parse_hub_address
from tests import ROOT
from tests.sources.hub import DataSet, Hub, hub

PARAMS = Path("params.yaml")
OF_URL: Values = {"members": [], "licence": "not stated"}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a folder of notes, a file, and no source; the current folder."""
    folder = tmp_path / "project"
    (folder / "notes" / "deep").mkdir(parents=True)
    (folder / "notes" / "a.txt").write_text("a")
    (folder / "notes" / "deep" / "b.txt").write_text("b")
    (folder / "book.txt").write_text("a book")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(set_value(text, "fetch.benchmarks", []), encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GPT_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        running.sets["tales/times"] = DataSet()
        yield running


def write(*sources: Values) -> None:
    PARAMS.write_text(set_value(PARAMS.read_text(encoding="utf-8"), "fetch.sources", list(sources)), encoding="utf-8")


def local(name: str, path: str, **more: str) -> Values:
    return {"name": name, "kind": "local", "path": path, **more, "licence": "none"}


def written(name: str) -> Values:
    return next(each for each in read_sources(PARAMS.read_text(encoding="utf-8"))["sources"] if each["name"] == name)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_all_hashes_that_are_missing_are_told_at_once_and_one_command_writes_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(local("notes", "notes"), local("book", "book.txt"), local("texts", "notes/*.txt", sha256="TODO"))
    comments = PARAMS.read_text(encoding="utf-8").count("#")
    assert main(["fetch", "sources"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].endswith(
        "params.yaml: fetch.sources.0.sha256 is missing; `gpt data hash` finds it and writes it there"
    )
    assert len(told) == 3

    assert main(["data", "hash"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"params.yaml: fetch.sources book: sha256 = {sha256('a book')}"
    assert written("texts")["sha256"] == written("notes")["sha256"], "the same files, by a pattern"
    assert list(written("book")) == ["name", "kind", "path", "sha256", "licence"]
    assert PARAMS.read_text(encoding="utf-8").count("#") == comments
    assert main(["fetch", "sources"]) == 0
    assert Path("data/raw/texts/deep/b.txt").read_text() == "b"

    before = PARAMS.stat()
    assert main(["data", "hash"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "params.yaml: as it is; nothing was written"
    assert os.path.samestat(before, PARAMS.stat()) and before.st_mtime_ns == PARAMS.stat().st_mtime_ns


def test_files_that_changed_are_named_by_fetch_and_doctor_seen_by_dvc_and_accepted_by_one_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(local("notes", "notes"), local("book", "book.txt"))
    main(["data", "hash"])
    main(["fetch", "sources"])
    assert [*doctor()] == [("ok", "sources", "2, of which 2 are files of your own, as params.yaml says")]
    inputs = describe_inputs("fetch", load_params())
    capsys.readouterr()

    Path("notes/a.txt").write_text("another")
    Path("notes/c.txt").write_text("c")
    Path("notes/deep/b.txt").unlink()
    Path("book.txt").write_text("the second edition")
    assert describe_inputs("fetch", load_params()) != inputs, "so that `dvc repro` fetches"
    for kind, subject, text in doctor():
        assert kind == "missing"
        assert text.endswith(f"`gpt data hash {subject.removeprefix('source ')}` writes it into params.yaml")
    assert "changed: 1 (a.txt); new: 1 (c.txt); gone: 1 (deep/b.txt)" in next(doctor())[2]

    assert main(["fetch", "sources"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2, "a line for each source, and what to do in the last"
    assert "(changed: 1 (a.txt); new: 1 (c.txt); gone: 1 (deep/b.txt))" in told[0]
    assert f"what came has {sha256('the second edition')} (book.txt)" in told[1]
    assert told[1].endswith("; if that is what you want, `gpt data hash notes book` writes it into params.yaml")

    assert main(["fetch", "--accept", "sources"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("): changed: 1 (a.txt); new: 1 (c.txt); gone: 1 (deep/b.txt)")
    assert told[-1] == "data/raw: 3 files, verified"
    assert written("book")["sha256"] == sha256("the second edition")
    assert describe_inputs("fetch", load_params())["sources"][0]["sha256"] == written("notes")["sha256"]
    assert main(["fetch", "--accept", "sources"]) == 0
    assert capsys.readouterr().out.splitlines() == ["data/raw: 3 files, verified"], "nothing more to accept"


@pytest.mark.parametrize("where", [".", "*.txt", ".."])
def test_the_projects_own_folder_is_no_text(capsys: pytest.CaptureFixture[str], where: str) -> None:
    assert "holds data/raw, where `gpt fetch` would copy it to; name a folder beside" in refused(capsys, "add", where)


def test_accept_writes_a_manifest_anew_that_is_not_the_one_of_its_hash(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "a.txt").write_text("a")
    assert main(["data", "add", f"file://{store}/", "--name", "texts"]) == 0
    before, manifest = written("texts"), Path("data/manifests/texts.sha256")
    manifest.write_text("other\n")
    assert main(["fetch", "--accept", "sources"]) == 0
    assert written("texts") == before
    assert manifest.read_text().endswith("  a.txt\n")


def test_accept_leaves_what_the_manifest_fixes_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A store may grow: who accepts another source's change does not mean this one."""
    url = f"file://{tmp_path}/project/notes/"
    write({"name": "notes", "kind": "url", "url": url, "members": [], "licence": "none"}, local("book", "book.txt"))
    assert main(["fetch", "--accept", "sources"]) == 0
    assert "2 files listed in data/manifests/notes.sha256" in capsys.readouterr().out
    before = written("notes")["sha256"]
    Path("notes/c.txt").write_text("c")
    Path("book.txt").write_text("the second edition")
    assert main(["fetch", "--accept", "sources"]) == 0
    assert written("notes")["sha256"] == before
    capsys.readouterr()
    assert main(["data", "hash", "notes"]) == 0
    assert capsys.readouterr().out.endswith("3 files listed in data/manifests/notes.sha256: new: 1 (c.txt)\n")
    assert [kind for kind, _, _ in doctor()] == ["ok"]
    Path("data/manifests/notes.sha256").unlink()
    assert "bring it back from git, or `gpt data hash notes` writes it anew" in next(doctor())[2]


@pytest.mark.parametrize(
    ("where", "options", "expected"),
    [
        ("notes", [], {"name": "notes", "kind": "local", "path": "notes", "licence": "not stated"}),
        ("notes/*.txt", ["--name", "mine"], {"name": "mine", "kind": "local", "path": "notes/*.txt", "licence": "not stated"}),
        ("./book.txt", ["--licence", "CC0"], {"name": "book", "kind": "local", "path": "book.txt", "licence": "CC0"}),
        ("file://HERE/book.txt", [], {"name": "book", "kind": "url", "url": "file://HERE/book.txt"} | OF_URL),
        ("file://HERE/notes/", [], {"name": "notes", "kind": "url", "url": "file://HERE/notes/"} | OF_URL),
    ],
)  # fmt: skip
def test_a_source_is_added_with_its_hash(project: Path, where: str, options: list[str], expected: Values) -> None:
    here = lambda value: value.replace("HERE", str(project)) if isinstance(value, str) else value  # noqa: E731
    write()
    PARAMS.write_text(set_value(PARAMS.read_text(encoding="utf-8"), "fetch.sources", []), encoding="utf-8")
    assert main(["data", "add", here(where), *options]) == 0
    (source,) = read_sources(PARAMS.read_text(encoding="utf-8"))["sources"]
    assert len(source.pop("sha256")) == 64
    assert source == {key: here(value) for key, value in expected.items()}
    assert main(["fetch", "sources"]) == 0


def test_a_path_means_what_it_means_where_the_user_stands(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project / "notes")
    assert main(["data", "add", "deep"]) == 0
    assert written("deep")["path"] == "notes/deep"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one message of a command that fails and changes nothing."""
    before = PARAMS.read_bytes()
    assert main(["data", *arguments]) == 2
    assert PARAMS.read_bytes() == before
    return capsys.readouterr().err


def test_what_cannot_be_added_is_one_message(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    assert main(["data", "add", "notes"]) == 0
    for arguments, message in (
        (["notes"], "fetch.sources notes is that already; `gpt data hash notes` writes what it is now"),
        (["book.txt", "--name", "notes"], "there is a source named notes already; give another name (--name)"),
        (["book.txt", "--name", "no/name"], "fetch.sources.2.name = 'no/name': must be letters"),
        (["nowhere"], "nowhere: not found; name a file, a folder or a pattern"),
        (["notes/*.md"], "notes/*.md: holds no file"),
        (["https://me:hunter2secret@127.0.0.1:9/a.txt"], "seems to hold a"),
        (["file:///nowhere/a.txt"], "cannot read file:///nowhere/a.txt"),
        (["hf://models/a/b"], "must be hf://OWNER/NAME of a data set"),
        (["book.txt", "--member", "*.txt"], "--member: is for archives behind a URL"),
    ):
        told = refused(capsys, "add", *arguments)
        assert message in told
        assert "hunter2secret" not in told
    assert "fetch has no source named none; it has shakespeare, notes" in refused(capsys, "hash", "none")


def test_several_faults_of_hash_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    write(
        local("gone", "gone"),
        {"name": "odd", "kind": "url", "url": "no address", "members": [], "licence": "-"},
        local("book", "book.txt"),
    )
    told = refused(capsys, "hash").splitlines()
    assert "fetch.sources gone: path: gone not found" in told[0]
    assert "fetch.sources.1.url = 'no address'" in told[1]


def test_of_a_folder_with_files_of_several_kinds_the_most_are_taken_and_the_rest_is_told(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("notes/c.md").write_text("# c")
    Path("notes/a.txt").write_text("more than of the other kind")
    assert main(["data", "add", "notes", "--name", "all"]) == 0
    assert written("all")["path"] == "notes", "all of them can be read"
    for name in ("picture.png", "old.txt.xz", "LICENSE"):
        Path("notes", name).write_bytes(b"no text" * 99)
    capsys.readouterr()
    assert main(["data", "add", "notes", "--name", "most"]) == 0
    assert written("most")["path"] == "notes/*.txt"
    told = capsys.readouterr().out
    assert "taken: 2 *.txt; left out: 1 *" in told
    assert "1 *.png" in told and "1 *.xz" in told and "; `gpt data add 'notes/*.md' --name …` adds such, too" in told
    assert main(["data", "add", "notes/*.md", "--name", "rest"]) == 0
    Path("odd").mkdir()
    Path("odd/a.dat").write_text("read.format says that it is text")
    assert main(["data", "add", "odd"]) == 0
    assert main(["fetch", "--accept", "sources"]) == 0


# The hub


def test_a_data_set_is_added_by_its_address_with_commit_and_licence(
    server: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    first = server.sets["tales/times"].commit(
        {"README.md": b"# Times", "data/a.jsonl": b"{}\n" * 700, "data/b.jsonl": b"{}"}
    )
    write()
    assert main(["data", "add", "hf://tales/times"]) == 0
    expected: dict[str, Any] = {"name": "times", "kind": "huggingface", "repository": "tales/times", "revision": first,
                                "patterns": ["*.jsonl"], "licence": "cc0-1.0"}  # fmt: skip
    assert written("times") == expected
    assert main(["fetch", "sources"]) == 0
    assert Path("data/raw/times/data/b.jsonl").read_bytes() == b"{}"

    server.sets["tales/times"].commit({"data/a.jsonl": b"{}\n", "more.txt": b"more"})
    capsys.readouterr()
    assert main(["data", "add", "hf://tales/times@main", "--name", "most"]) == 0
    assert written("most")["patterns"] == ["*.txt"], "of which there is more"
    assert "left out: 1 *.jsonl; `gpt data add 'hf://tales/times/*.jsonl' --name …` adds such, too" in (
        capsys.readouterr().out
    )
    assert (
        main(["data", "add", f"hf://datasets/tales/times@{first}/data/a*", "--name", "again", "--licence", "mine"]) == 0
    )
    assert written("again") == expected | {"name": "again", "patterns": ["data/a*"], "licence": "mine"}
    assert main(["data", "add", "hf://tales/times/data", "--name", "folder"]) == 0
    assert written("folder")["patterns"] == ["data/*.jsonl"], "a folder means what is in it"


def test_a_branch_is_refused_and_hash_writes_its_commit(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    first = server.sets["tales/times"].commit({"a.txt": b"a"})
    source = {
        "name": "times",
        "kind": "huggingface",
        "repository": "tales/times",
        "patterns": ["*.txt"],
        "licence": "-",
    }
    write(source | {"revision": "main"})
    assert main(["fetch", "sources"]) == 2
    told = capsys.readouterr().err
    assert "fetch.sources.0.revision = 'main': must be a commit, 40 hexadecimal digits" in told
    assert main(["data", "hash"]) == 0
    assert f"revision = {first} (was main)" in capsys.readouterr().out
    second = server.sets["tales/times"].commit({"a.txt": b"b"})
    assert main(["data", "hash"]) == 0
    assert written("times")["revision"] == first, "a commit stays"
    write(source)
    assert main(["fetch", "--accept", "sources"]) == 0
    assert written("times")["revision"] == second
    assert Path("data/raw/times/a.txt").read_text() == "b"
    assert "the hub has no data set tales/none" in refused(capsys, "add", "hf://tales/none")
    assert "repository: the hub names no data set tales/no--name" in refused(capsys, "add", "hf://tales/no--name")
    assert "revision: tales/times has no v9" in refused(capsys, "add", "hf://tales/times@v9")


@pytest.mark.parametrize(
    ("address", "parts"),
    [("hf://a/b", ("a/b", "main", "")), ("hf://datasets/a/b@v1.0/data/", ("a/b", "v1.0", "data/*")),
     ("hf://a-1/b.c@refs/pr/2/*.txt", ("a-1/b.c", "refs/pr/2", "*.txt")), ("hf://a/b/x@y.txt", ("a/b", "main", "x@y.txt"))],
)  # fmt: skip
def test_an_address_of_the_hub_has_parts(address: str, parts: tuple[str, str, str]) -> None:
    assert parse_hub_address(address) == HubAddress(*parts)


def test_yaml_stays_yaml(project: Path) -> None:
    main(["data", "add", "notes", "--licence", "yes: # no"])
    assert YAML(typ="safe").load(PARAMS)["fetch"]["sources"][-1]["licence"] == "yes: # no"
