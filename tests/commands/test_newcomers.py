"""The mistakes of a newcomer, from the text to the settings: exit code 2, one line, no traceback, and what to do about it.

Those of typing are in test_mistakes.py, and each wrong setting in tests/e2e/test_bad_input.py.
"""

import json
import random
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt.commands.main import main
from gpt.files import sha256_file
from tests.conftest import write_params

WORDS = (
    "the",
    "king",
    "spoke",
    "of",
    "rain",
    "and",
    "stones",
    "while",
    "a",
    "small",
    "grey",
    "cat",
    "slept",
    "by",
    "his",
    "door",
)


def prose(size: int, seed: int = 0) -> str:
    draw, words = random.Random(seed), list[str]()
    while sum(map(len, words)) < size:
        words.append(draw.choice(WORDS) + draw.choice(("", "", "", ".\n")))
    return " ".join(words)


def records(field: str, count: int = 40) -> str:
    return "".join(json.dumps({"id": number, field: prose(400, number)}) + "\n" for number in range(count))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with texts, good and bad ones, that lies in no project; the current one."""
    monkeypatch.chdir(tmp_path)
    for folder in ("texts", "empty", "taken"):
        Path(folder).mkdir()
    Path("texts/a.txt").write_text(prose(20_000))
    Path("taken/notes.txt").write_text("mine")
    Path("short.txt").write_text("Too little.")
    Path("blank.txt").write_text(" \n" * 9)
    Path("nothing.txt").touch()
    Path("scan.pdf").write_bytes(b"%PDF-1.4\n" + bytes(range(256)) * 100)
    Path("blob.txt").write_bytes(bytes(range(256)) * 100)
    Path("latin.txt").write_bytes(prose(20_000).replace("king", "roi à l'été").encode("latin-1"))
    Path("numbers.jsonl").write_text("".join(json.dumps({"id": number}) + "\n" for number in range(2_000)))
    Path("broken.jsonl").write_text(records("text") + '{"text": "broken\n')
    return tmp_path


# What is typed, how its message begins, and what it says is to be done.
BEGINNINGS: dict[str, tuple[str, str, str]] = {
    "no such file": ("init new --data text", "--data text: not found", "name a file, a folder, or hf://"),
    "an empty folder": ("init new --data empty", "--data empty: is a folder without files", "put text into it"),
    "an empty file": ("init new --data nothing.txt", "--data nothing.txt: is empty", "name a file or folder with text"),
    "a file without text": ("init new --data blank.txt", "--data blank.txt: its 1 file(s) hold no text", "name a file"),
    "too little text": ("init new --data short.txt", "--data short.txt: holds 11 bytes", "bring more text"),
    "too little text for a large model": (
        "init new --data texts --template gpt2-124m",
        "--data texts: holds ",
        "take --template tiny, or bring more text",
    ),
    "a PDF": (
        "init new --data scan.pdf",
        "--data ./scan.pdf: files of type '.pdf' cannot be read",
        "convert it to text",
    ),
    "binary data": ("init new --data blob.txt", "--data ./blob.txt: not UTF-8 text", "convert it to UTF-8"),
    "another encoding": ("init new --data latin.txt", "--data ./latin.txt: not UTF-8 text", "convert it to UTF-8"),
    "records without a text": (
        "init new --data numbers.jsonl",
        "--data ./numbers.jsonl: line 1: has no text field 'text' but 'id'",
        "give each record a text",
    ),
    "a broken record": ("init new --data broken.jsonl", "--data ./broken.jsonl: line 41: not valid JSON", "repair it"),
    "an address of the web": (
        "init new --data https://example.org/a.txt",
        "--data: https://example.org/a.txt: is no file or folder here",
        "download it",
    ),
    "a data set without its owner": (
        "init new --data hf://wikitext",
        "--data: hf://wikitext: must be hf://OWNER/NAME",
        "@REVISION and /PATTERN",
    ),
    "a variable that is not set": ("init new --data ''", "--data: must not be empty", "must not be empty"),
    "no folder for it": ("init --data texts", "DIR is missing", "as in: gpt init my-model --data texts/"),
    "a folder that is not empty": (
        "init taken --data texts",
        "taken: is not empty (notes.txt)",
        "name a new folder, or one that holds nothing but the text",
    ),
    "a folder that is a file": ("init short.txt --data texts", "short.txt: is a file", "name a new folder"),
    "a project in its own text": (
        "init texts/new --data texts",
        "--data texts: holds the project's folder texts/new",
        "name one beside it",
    ),
    "an unknown template": (
        "init new --data texts --template clasic",
        "--template: must be tiny or classic or short or gpt2-124m or 1b, not 'clasic'",
        "did you mean classic?",
    ),
    "a name with a space": (
        "init new --data texts --name 'my model'",
        "--name my model: must be letters",
        "begin with",
    ),
    "a command that is none": ("intt new --data texts", "no command 'intt'", "did you mean `gpt init`?"),
    "a command outside a project": ("fetch", "params.yaml: not found", "or make one: gpt init DIR"),
}


@pytest.mark.parametrize(("typed", "begins", "advice"), BEGINNINGS.values(), ids=BEGINNINGS)
def test_a_mistake_at_the_beginning_says_what_to_do_and_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], typed: str, begins: str, advice: str
) -> None:
    before = sorted(here.rglob("*"))
    assert main(shlex.split(typed)) == 2
    error = only_line(capsys)
    assert error.startswith(f"error: {begins}")
    assert advice in error
    assert "prepare." not in error, "there is no params.yaml yet"
    assert sorted(here.rglob("*")) == before


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    [error] = said.err.splitlines()
    return error


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one source, of which nothing was fetched yet; the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("posts.jsonl").write_text(records("text"))
    source = {"name": "posts", "kind": "local", "path": "posts.jsonl", "sha256": sha256_file(Path("posts.jsonl"))}
    write_params(
        tmp_path,
        {"fetch": {"sources": [source | {"licence": "none"}], "benchmarks": []}, "evaluate": {"benchmarks": []}},
    )
    return tmp_path


def edit(pattern: str, new: str) -> Callable[[], None]:
    def apply() -> None:
        text, count = re.subn(pattern, new, Path("params.yaml").read_text(), count=1, flags=re.MULTILINE)
        assert count == 1
        Path("params.yaml").write_text(text)

    return apply


def change_text() -> None:
    Path("posts.jsonl").write_text(records("text", 41))


def rename_field() -> None:
    Path("posts.jsonl").write_text(records("body"))
    assert main(["data", "hash"]) == 0


HUB = "- {name: hub, kind: huggingface, repository: OWNER/NAME, patterns: ['*.txt'], licence: none}"
SETTINGS: dict[str, tuple[Callable[[], None], str, str, str]] = {
    "a misspelt key": (
        edit("^  learning_rate:", "  lerning_rate:"),
        "prepare",
        "params.yaml: train.lerning_rate",
        "did you mean train.learning_rate?",
    ),
    "a word for a number": (
        edit("max_steps: .*", "max_steps: many"),
        "fetch",
        "params.yaml: train.max_steps",
        "integer",
    ),
    "a tab": (
        edit("^  learning_rate:", "\tlearning_rate:"),
        "fetch",
        "params.yaml: not valid YAML",
        "indent with spaces",
    ),
    "shares that do not add up": (
        edit(r"mixture: \[\]", "mixture:\n  - {from_step: 0, shares: {posts: 0.7}}"),
        "pretrain",
        "params.yaml: train.mixture.0: shares add up to 0.7",
        "not 1",
    ),
    "a share of no source": (
        edit(r"mixture: \[\]", "mixture:\n  - {from_step: 0, shares: {post: 1.0}}"),
        "pretrain",
        "params.yaml: train.mixture: post is no source",
        "known are posts",
    ),
    "no commit of a data set": (
        edit("^  sources:", f"  sources:\n  {HUB}"),
        "fetch",
        "params.yaml: fetch.sources.0.revision is missing",
        "`gpt data hash` finds it",
    ),
    "a source that is not there": (
        lambda: Path("posts.jsonl").unlink(),
        "fetch",
        "params.yaml: fetch.sources posts: path: posts.jsonl not found",
        "correct it, or bring the files back",
    ),
    "weights that are not there": (
        edit("init_from: scratch", "init_from: gpt2"),
        "fetch weights",
        "params.yaml: train.init_from = gpt2: no such folder",
        "name the folder of a model, models:/NAME/VERSION",
    ),
    "a tokenizer's key without its file": (
        edit(r"^  vocab_size: \d+", "  vocab_size: 10"),
        "tokenizer",
        "params.yaml: tokenizer.vocab_size = 10",
        "greater than or equal to",
    ),
    "nothing prepared": (lambda: None, "prepare", "data/raw/sources.json: not found", "run `gpt fetch` first"),
    "nothing tokenized": (lambda: None, "pretrain", "data/tokens/index.json: not found", "run `gpt tokenize` first"),
    "nothing trained": (lambda: None, "generate hi", "models/base/config.json: not found", "run `gpt pretrain`"),
    "nothing registered": (lambda: None, "promote", "", "run `gpt pretrain` and `gpt register` first"),
    "an experiment with an unknown key": (
        lambda: None,
        "experiment -S train.max_step=5",
        "params.yaml: train.max_step is not a known key",
        "did you mean train.max_steps?",
    ),
    "a comparison with nothing": (lambda: None, "compare HEAD", "HEAD: alone", "name another"),
    "hashes of weights": (lambda: None, "fetch weights --accept", "--accept: ", "leave it out"),
}


@pytest.mark.parametrize(("spoil", "typed", "begins", "advice"), SETTINGS.values(), ids=SETTINGS)
def test_a_mistake_in_a_project_says_where_it_is_and_what_to_do(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[], None],
    typed: str,
    begins: str,
    advice: str,
) -> None:
    spoil()
    capsys.readouterr()
    assert main(shlex.split(typed)) == 2
    error = only_line(capsys)
    assert error.startswith(f"error: {begins}")
    assert advice in error


def test_a_text_that_has_changed_is_told_with_the_command_that_takes_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_text()
    assert main(["fetch", "sources"]) == 2
    said = capsys.readouterr().err
    assert all(line.startswith("error: ") for line in said.splitlines())
    assert "params.yaml: fetch.sources posts: sha256 is " in said
    assert "`gpt data hash posts` writes it into params.yaml" in said


def test_a_wrong_column_is_named_with_those_that_are_there(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rename_field()
    assert main(["fetch"]) == 0
    capsys.readouterr()
    assert main(["prepare"]) == 2
    error = only_line(capsys)
    assert re.search(r"posts\.jsonl: line 1: has no text field 'text' but 'id', 'body'", error)
    assert "set prepare.read.text_field" in error


# What asks for a file that another command writes.
TOO_EARLY = (
    *(
        "prepare",
        "tokenizer",
        "tokenize",
        "data-card",
        "pretrain",
        "evaluate",
        "report",
        "register",
        "promote",
        "rollback",
    ),
    *("models", "lineage", "reproduce", "generate x", "export there", "tokens show", "data sample"),
)


@pytest.mark.parametrize("command", TOO_EARLY)
def test_what_never_ran_is_not_to_be_run_again(here: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(Path(), {})
    assert main(command.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search("not found; run `gpt|not there yet.*; run `gpt", line), line
    assert "again" not in line
