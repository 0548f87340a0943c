"""What `gpt data diff` says, in a real git repository with a real DVC cache."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from gpt import paths
from gpt.commands.main import main
from gpt.errors import UserError
from gpt.files import read_json, sha256_file
from gpt.params.project import load_params
from gpt.projects.inputs import write_inputs
from gpt.reports.data_diff import count_changes, diff
from gpt.sources import fetch as sources
from tests.conftest import prepare_data
from tests.sources.hub import DataSet, hub

EXACTLY = {"exact": True, "minhash": False, "ngram": 5, "buckets": 14, "hashes": 8, "seed": 1}
STAGES = {
    "prepare": {"cmd": "true", "outs": [paths.DOCUMENTS.as_posix(), paths.PREPARE_COUNTS.as_posix()]},
    "tokenize": {"cmd": "true", "outs": [paths.TOKENIZE_COUNTS.as_posix()]},
}


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)


def change(**sections: dict[str, object]) -> None:
    """Set values in params.yaml."""
    yaml = YAML()
    values = yaml.load(Path("params.yaml").read_text(encoding="utf-8"))
    for section, keys in sections.items():
        values[section] |= keys
    yaml.dump(values, Path("params.yaml"))


def add_text(text: str) -> None:
    """Add a document to the source, and make the data again."""
    path = Path("text.jsonl").absolute()
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"text": text}) + "\n")
    listed = {"name": "made-up", "kind": "local", "path": str(path), "sha256": sha256_file(path), "licence": "none"}
    change(fetch={"sources": [listed]})
    sources.fetch(load_params().fetch.sources, paths.RAW)
    prepare_data(Path())


@pytest.fixture
def repository(
    prepared_project: Path, copy_project: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A project whose data are committed, with their documents in DVC's cache; the current folder."""
    folder = copy_project(prepared_project)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc-site"))
    YAML().dump({"stages": STAGES}, folder / "dvc.yaml")
    (folder / ".gitignore").write_text("/data\n/models\n", encoding="utf-8")
    git(folder, "init", "-q")
    dvc("init", "-q")
    dvc("config", "core.analytics", "false")
    dvc("commit", "--force", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "data")
    return folder


def test_it_says_which_sources_settings_documents_and_tokens_changed(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unchanged = ["sources: the same", "settings: the same", "documents: the same", "tokens: the same"]
    assert diff(repository, "HEAD") == unchanged
    before, hash_before = read_json(paths.PREPARE_COUNTS, ""), sha256_file(Path("text.jsonl"))
    change(prepare={"max_document_bytes": 5000}, tokenize={"shuffle_seed": 9})
    add_text("a new document that nobody has seen")
    after = read_json(paths.PREPARE_COUNTS, "")
    (grown,) = (split for split in ("train", "validation", "test") if after[split] != before[split])
    assert main(["data", "diff"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"  ~ made-up: sha256 {hash_before} → {sha256_file(Path('text.jsonl'))}" in lines
    assert "  prepare.max_document_bytes: 20000000 → 5000" in lines
    assert "  tokenize.shuffle_seed: 1 → 9" in lines
    assert not any("engine" in line for line in lines)
    documents = before[grown]["documents"]
    assert any(
        line.startswith(f"  {grown} made-up: documents {documents} → {documents + 1} (+1), bytes ") for line in lines
    )
    assert f"  {grown}: 1 added, 0 removed, {documents} the same" in lines
    assert any(line.startswith("  train made-up: documents") and "tokens" in line for line in lines)


def test_the_next_revision_of_a_data_set_is_told_with_what_it_brings(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT_CACHE", str(tmp_path / "cache"))
    with hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.sets["tales/times"] = DataSet()
        lines = [f'{{"text": "tale {number} of a king and of his daughter"}}\n' for number in range(40)]
        first, second = (
            server.sets["tales/times"].commit({"data/a.jsonl": "".join(part).encode()}) for part in (lines[:39], lines)
        )
        listed = {
            "name": "times",
            "kind": "huggingface",
            "repository": "tales/times",
            "patterns": ["*.jsonl"],
            "licence": "-",
        }
        for revision in (first, second):
            change(fetch={"sources": [listed | {"revision": revision}]}, prepare={"deduplicate": EXACTLY})
            sources.fetch(load_params().fetch.sources, paths.RAW)
            prepare_data(Path())
            if revision == first:
                dvc("commit", "--force", "-q")
                git(repository, "commit", "-qam", "the first revision")
    told = diff(repository, "HEAD")
    assert told[:2] == ["sources", f"  ~ times: revision {first} → {second}"]
    documents = [line for line in told if line.endswith(" the same") and "added" in line]
    assert sorted(line.split(": ")[1].split(", ")[0] for line in documents) == ["0 added", "0 added", "1 added"]
    assert all("0 removed" in line for line in documents)


def lock(**params: dict[str, object]) -> None:
    """Write what DVC notes of stages' settings when it has run them."""
    path = Path("dvc.lock")
    values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    for stage, noted in params.items():
        values["stages"].setdefault(stage, {"cmd": "true"})["params"] = {"params.yaml": noted}
    YAML().dump(values, path)


def test_a_stage_that_has_not_run_since_its_settings_changed_is_named(repository: Path) -> None:
    """Its figures are of before: "documents: the same" alone would be wrong."""
    params = load_params()
    noted = {
        "prepare": {
            "prepare.split_seed": params.prepare.split_seed,
            "prepare.clean": params.section("prepare")["clean"],
        },
        "tokenizer": {"tokenizer": params.section("tokenizer")},
        "tokenize": {"tokenize": params.section("tokenize")},
    }
    lock(**noted)
    assert diff(repository, "HEAD")[2:] == ["documents: the same", "tokens: the same"]
    seed = params.prepare.split_seed
    change(prepare={"split_seed": seed + 1})
    assert diff(repository, "HEAD")[2:] == [
        f"  prepare.split_seed: {seed} → {seed + 1}",
        "documents: the same",
        "tokens: the same",
        "the working tree has figures of data from before its params.yaml; `dvc repro tokenize` makes them anew",
        f"  prepare has not run with prepare.split_seed = {seed + 1} (ran with {seed})",
        "  tokenizer has not run after prepare",
        "  tokenize has not run after prepare",
    ]
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "settings without the data")
    assert diff(repository, "HEAD")[4].startswith("HEAD has figures of data from before its params.yaml")
    change(prepare={"split_seed": seed}, tokenize={"shuffle_seed": 9})
    assert diff(repository, "HEAD~1")[-2:] == [
        "the working tree has figures of data from before its params.yaml; `dvc repro tokenize` makes them anew",
        "  tokenize has not run with tokenize.shuffle_seed = 9 (ran with 1)",
    ]


def test_sources_that_were_not_fetched_are_named(repository: Path) -> None:
    write_inputs(load_params())
    noted = Path("data/inputs/fetch.json")
    path = Path("dvc.lock")
    values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    digest = hashlib.md5(noted.read_bytes(), usedforsecurity=False).hexdigest()
    values["stages"]["fetch"] = {"cmd": "true", "deps": [{"path": noted.as_posix(), "md5": digest}]}
    YAML().dump(values, path)
    late = "  fetch has not run with the sources of params.yaml"
    assert late not in diff(repository, "HEAD")
    with Path("text.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "more"}\n')
    listed = {"name": "made-up", "kind": "local", "path": str(Path("text.jsonl").absolute()), "licence": "none"}
    change(fetch={"sources": [listed | {"sha256": sha256_file(Path("text.jsonl"))}]})
    lines = diff(repository, "HEAD")
    assert lines[-3:] == [late, "  prepare has not run after fetch", "  tokenize has not run after fetch"]
    write_inputs(load_params())  # what `dvc repro` does first; then the fetch failed
    assert diff(repository, "HEAD") == lines


@pytest.mark.slow
def test_a_stage_that_has_not_run_at_all_is_named(repository: Path) -> None:
    paths.TOKENIZE_COUNTS.unlink()
    assert diff(repository, "HEAD") == [
        "sources: the same",
        "settings: the same",
        "documents: the same",
        "tokens: tokenize has not run in the working tree; `dvc repro tokenize` runs it",
    ]
    paths.PREPARE_COUNTS.unlink()
    assert (
        diff(repository, "HEAD")[2]
        == "documents: prepare has not run in the working tree; `dvc repro tokenize` runs it"
    )


@pytest.mark.slow
def test_documents_that_are_not_at_hand_are_named_with_what_brings_them(repository: Path) -> None:
    add_text("a new document that nobody has seen")
    outs = YAML(typ="safe").load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]["prepare"]["outs"]
    (listing,) = (out["md5"] for out in outs if out["path"] == paths.DOCUMENTS.as_posix())
    Path(f".dvc/cache/files/md5/{listing[:2]}/{listing[2:]}").unlink()
    lines = diff(repository, "HEAD")
    assert lines[-1] == (
        "  the documents of HEAD are not at hand; `dvc fetch --all-commits data/documents` brings them"
        " if a DVC remote has them"
    )
    assert any("(+1)" in line for line in lines)
    shutil.rmtree(".dvc/cache")
    with pytest.raises(UserError, match=r"^HEAD: data/prepare\.json is not at hand; `dvc fetch --all-commits data"):
        diff(repository, "HEAD")


def test_a_source_that_came_and_one_that_went_are_told(repository: Path) -> None:
    listed = {"name": "other", "kind": "local", "path": "x", "sha256": "0" * 64, "licence": "CC0-1.0"}
    change(fetch={"sources": [listed], "benchmarks": [listed | {"name": "judge"}]})
    lines = diff(repository, "HEAD")
    assert lines[1:4] == [
        "  - made-up",
        f"  + other: sha256 {'0' * 64}, licence CC0-1.0",
        f"  + judge (benchmark): sha256 {'0' * 64}, licence CC0-1.0",
    ]


@pytest.mark.slow
def test_what_an_earlier_commit_said_is_shown_without_its_password(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = Path("params.yaml").read_text(encoding="utf-8")
    (source,) = load_params().section("fetch")["sources"]
    change(fetch={"sources": [source | {"licence": "as of https://me:s3cr3t@host/terms"}]})
    git(repository, "commit", "-qam", "a mistake")
    Path("params.yaml").write_text(now, encoding="utf-8")
    assert main(["data", "diff"]) == 0
    assert "  ~ made-up: licence as of https://me:***@host/terms → none" in capsys.readouterr().out


@pytest.mark.slow
def test_a_project_in_a_folder_of_the_repository_is_compared_with_itself(repository: Path) -> None:
    moved = repository / "deep" / "project"
    moved.mkdir(parents=True)
    for path in (Path("params.yaml"), paths.PREPARE_COUNTS, paths.TOKENIZE_COUNTS):
        (moved / path).parent.mkdir(exist_ok=True)
        shutil.move(repository / path, moved / path)
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "move")
    assert diff(moved, "HEAD")[0] == "sources: the same"


@pytest.mark.slow
def test_counts_of_a_commit_of_an_earlier_release_are_read_where_it_kept_them(repository: Path) -> None:
    Path("metrics").mkdir()
    for path in (paths.PREPARE_COUNTS, paths.TOKENIZE_COUNTS):
        shutil.copy(path, "metrics")
    stages = YAML(typ="safe").load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]
    stages["prepare"]["outs"] = [out for out in stages["prepare"]["outs"] if out["path"] == paths.DOCUMENTS.as_posix()]
    YAML().dump({"stages": {"prepare": stages["prepare"]}}, Path("dvc.lock"))
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "of an earlier release")
    shutil.rmtree("metrics")
    assert diff(repository, "HEAD") == diff(repository, "HEAD~1")


def test_what_cannot_be_compared_is_one_error_that_says_what_to_do(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for revision in ("nowhere", "--output=x", "HEAD:params.yaml"):
        assert main(["data", "diff", "--", revision]) == 2
        assert (
            capsys.readouterr().err
            == f"error: {revision}: no revision that git knows; `git log --oneline` shows them\n"
        )
    git(repository, "rm", "-q", "--cached", "dvc.lock")
    git(repository, "commit", "-qm", "no figures")
    with pytest.raises(UserError, match=r"^HEAD: has no data/prepare.json; choose one whose data"):
        diff(repository, "HEAD")
    assert diff(repository, "HEAD~1")[0] == "sources: the same"
    paths.TOKENIZE_COUNTS.write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"^the working tree: data/tokenize.json has no train, .*; run `dvc repro"):
        diff(repository, "HEAD~1")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UserError, match="not a git repository"):
        diff(tmp_path / "elsewhere", "HEAD")


@given(st.sets(st.text(max_size=5)), st.sets(st.text(max_size=5)))
def test_ids_are_counted_as_sets_are(old: set[str], new: set[str]) -> None:
    assert count_changes(old, new) == (len(new - old), len(old - new), len(old & new))
