"""A project around a data set of the hub: pinned, looked at by its smallest file, and described by what that holds."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt.commands.main import main
from gpt.params.changes.lines import read_entries
from gpt.params.project import load_params
from tests.projects.test_create import prose, refusal, somebody
from tests.sources.hub import Hub, hub_of

__all__ = ["somebody"]
ROWS = [{"story": prose(300, seed), "stars": seed % 5} for seed in range(200)]
PART = ["".join(json.dumps(row) + "\n" for row in rows).encode() for rows in (ROWS[:150], ROWS[150:])]
FILES = {
    "README.md": b"# Stories\n" * 10,
    "dataset_infos.json": b"{}",
    "data/train-0.jsonl": PART[0],
    "data/train-1.jsonl": PART[1],
    "pictures/cover.png": b"\x89PNG" * 10_000_000,
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_of("tales/stories", tmp_path, monkeypatch) as running:
        yield running


def test_it_is_pinned_at_the_commit_of_now_and_surveyed(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    commit = server.sets["tales/stories"].commit(FILES)
    assert main(["init", "project", "--data", "hf://tales/stories"]) == 0
    told = capsys.readouterr().out
    params = load_params(Path("project/params.yaml"))
    (source,) = params.fetch.sources
    assert source.model_dump(mode="json") == {
        "name": "stories", "kind": "huggingface", "repository": "tales/stories", "revision": commit, "patterns": ["*.jsonl"],
        "licence": "cc0-1.0",
    }  # fmt: skip
    assert params.prepare.read.text_field == "story"
    assert params.prepare.hold_out == "documents"
    assert all(any(row["story"].startswith(prompt) for row in ROWS) for prompt in params.evaluate.prompts)
    assert f"tales/stories at {commit[:7]}, 2 files *.jsonl" in told
    assert "documents, 2 files" in told
    asked = [line for line in server.asked if "train" in line or "png" in line]
    assert asked
    assert all("train-1" in line for line in asked), "the smallest one is enough"


def test_a_branch_and_a_folder_may_be_named(server: Hub) -> None:
    old = server.sets["tales/stories"].commit(FILES, branch="v1")
    server.sets["tales/stories"].commit({"data/train-0.jsonl": b"{}"})
    assert main(["init", "project", "--data", "hf://tales/stories@v1/data"]) == 0
    (source,) = load_params(Path("project/params.yaml")).fetch.sources
    values = source.model_dump(mode="json")
    assert (values["revision"], values["patterns"]) == (old, ["data/*.jsonl"])


@pytest.mark.parametrize("address", ["hf://tales/stories/data/*-1.jsonl", "hf://tales/stories/data/train-1.jsonl"])
def test_a_pattern_or_a_file_may_be_named_as_for_data_add(
    server: Hub, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    server.sets["tales/stories"].commit(FILES)
    assert main(["init", "project", "--data", address]) == 0
    (source,) = load_params(Path("project/params.yaml")).fetch.sources
    assert source.model_dump(mode="json")["patterns"] == [address.removeprefix("hf://tales/stories/")]
    assert "1 files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://stories", "must be hf://OWNER/NAME"),
        ("hf://tales/none", "tales/none"),
        ("hf://tales/stories/none/*.txt", "nothing in the data set matches 'none/*.txt'"),
        ("hf://tales/stories/pictures", "holds no file of a type that can be read"),
    ],
)
def test_what_the_hub_has_not_is_one_message(
    server: Hub, capsys: pytest.CaptureFixture[str], address: str, message: str
) -> None:
    server.sets["tales/stories"].commit(FILES)
    assert message in refusal(capsys, "project", "--data", address)
    assert not Path("project").exists()


def test_a_template_of_the_hub_is_made_without_a_network_and_says_what_is_left_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("GPT_CACHE", str(tmp_path / "cache"))
    assert main(["init", "project", "--template", "gpt2-124m"]) == 0
    assert "`gpt data hash fineweb-edu` writes the commit into params.yaml" in capsys.readouterr().out
    settings = Path("project/params.yaml").read_text(encoding="utf-8")
    (source,) = read_entries(settings)["fetch.sources"].value
    assert source == {
        "name": "fineweb-edu",
        "kind": "huggingface",
        "repository": "HuggingFaceFW/fineweb-edu",
        "patterns": ["sample/10BT/*"],
        "licence": "not stated",
    }
    monkeypatch.chdir("project")
    assert main(["fetch"]) == 2
    assert "`gpt data hash` finds it" in capsys.readouterr().err
