import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt import paths
from gpt.commands.main import main
from gpt.files import write_json
from gpt.params.project import load_params
from gpt.tokens.batches import Batches
from gpt.tokens.display import show_token, show_tokens
from gpt.tokens.encoding import Encoding
from gpt.tokens.shards import TokenReader
from gpt.tokens.tokenizer import CHAR_PATTERN, END_OF_TEXT, load_tokenizer, save_tokenizer, tokenizer_id
from tests.conftest import write_params

PIECES = (b"To", b" be", b"\n\n", "é".encode())
TO, BE, LINES, ACCENT, END = range(256, 261)
BOUNDARY = "──── end of document ────"
Show = Callable[..., list[str]]


def write_tokenizer(folder: Path, pieces: tuple[bytes, ...] = PIECES) -> Encoding:
    """Write a tokenizer of all bytes and some pieces of text."""
    tokens = [bytes([byte]) for byte in range(256)] + list(pieces)
    ranks = {token: rank for rank, token in enumerate(tokens)}
    save_tokenizer("char", CHAR_PATTERN, ranks, {END_OF_TEXT: len(ranks)}, folder)
    return load_tokenizer(folder)


def write_tokens(splits: dict[str, list[int]]) -> None:
    """Write token shards of the project in the current folder."""
    entries = {}
    for split, tokens in splits.items():
        file = f"{split}_00000.bin"
        paths.TOKENS.mkdir(parents=True, exist_ok=True)
        np.array(tokens, dtype="<u2").tofile(paths.TOKENS / file)
        shards = [{"file": file, "source": "made-up", "tokens": len(tokens), "sha256": ""}]
        counts = {"tokens": len(tokens), "documents": tokens.count(END), "bytes": 2 * len(tokens)}
        entries[split] = {**counts, "documents_sha256": "", "shards": shards}
    tokenizer = {"vocab_size": END + 1, "end_of_text": END, "tokenizer_id": tokenizer_id(paths.TOKENIZER)}
    write_json(paths.TOKENS / "index.json", {"dtype": "<u2", **tokenizer, "splits": entries})


@pytest.fixture(scope="module")
def encoding(tmp_path_factory: pytest.TempPathFactory) -> Encoding:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with a tokenizer and tokens: documents of 7 tokens to train on, one of 3 and one of 21 held out."""
    monkeypatch.chdir(tmp_path)
    write_settings(attention_across_documents=True)
    write_tokenizer(paths.TOKENIZER)
    train = [token for number in range(40) for token in (TO, BE, 97 + number % 26, LINES, TO, number, END)]
    held_out = [TO, BE, END, *[ACCENT] * 20, END]
    write_tokens({"train": train, "validation": held_out, "test": held_out[3:]})
    yield tmp_path
    logging.captureWarnings(False)  # `main` turned it on


def write_settings(**train: object) -> None:
    change: dict[str, dict[str, object]] = {
        "model": {"block_size": 16},
        "train": {"batch_size": 4, **train},
        "launch": {"micro_batch_size": 4},
    }
    write_params(Path(), change)


@pytest.fixture
def show(project: Path, capsys: pytest.CaptureFixture[str]) -> Show:
    """Return a function that runs the command and returns its lines."""

    def run(*arguments: str) -> list[str]:
        assert main(["tokens", "show", *arguments]) == 0
        return capsys.readouterr().out.splitlines()

    return run


# Tokens as text


def test_borders_newlines_and_bytes_are_visible(encoding: Encoding) -> None:
    tokens = [TO, BE, 10, TO, LINES, ACCENT, 0xC3, 0xA9, BE]
    assert list(show_tokens(tokens, encoding)) == ["To│ be│⏎", "│To│⏎", "⏎", r"│é│\xc3│\xa9│ be"]


def test_the_end_of_a_document_has_a_line_of_its_own(encoding: Encoding) -> None:
    tokens = [END, TO, BE, END, END, BE, 10, END]
    expected = [BOUNDARY, "To│ be", BOUNDARY, BOUNDARY, " be│⏎", BOUNDARY]
    assert list(show_tokens(tokens, encoding)) == expected
    assert list(show_tokens([], encoding)) == []


def test_with_ids_every_token_has_a_line(encoding: Encoding) -> None:
    lines = list(show_tokens([TO, 10, LINES, 0xC3, END], encoding, ids=True))
    assert lines == ["256 To", " 10 ⏎", "258 ⏎⏎", r"195 \xc3", f"260 {BOUNDARY}"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),  # would clear the screen
        ("\r\t\0", r"\x0d\x09\x00"),
        ("\u202e", r"\u202e"),  # would turn the line around
        ("\u00a0", r"\u00a0"),  # \xa0 would be a byte
        ("\U000e0041", r"\U000e0041"),
        ("naïve 東 🙂 \\", "naïve 東 🙂 \\"),
    ],
)
def test_what_a_terminal_would_obey_or_hide_is_escaped(tmp_path: Path, text: str, shown: str) -> None:
    encoding = write_tokenizer(tmp_path / "tokenizer", (text.encode(),) if len(text.encode()) > 1 else ())
    assert show_token(encoding, encoding.encode_single_token(text.encode())) == shown


@given(st.lists(st.sampled_from([97, 32, 10, TO, BE, LINES, ACCENT, END])))
def test_nothing_is_lost(encoding: Encoding, tokens: list[int]) -> None:
    lines = list(show_tokens(tokens, encoding))
    assert not any("\n" in line for line in lines)
    shown = "".join(lines).replace(BOUNDARY, END_OF_TEXT).replace("⏎", "\n")
    assert shown.replace("│", "") == encoding.decode(tokens)
    borders = sum(first != END != second for first, second in itertools.pairwise(tokens))
    assert shown.count("│") == borders


# What the command shows


def test_the_sequences_shown_are_those_that_training_reads(show: Show) -> None:
    params = load_params()
    batches = Batches(TokenReader(paths.TOKENS, "train"), 16, 4, params.base.seed)
    for step in (0, 3, 10**12):
        lines = show("--step", str(step), "--sequences", "3", "--ids")
        headings = [line for line in lines if line.startswith(f"step {step}, sequence ")]
        starts = batches.starts(step)[:3].tolist()
        for number, (line, start) in enumerate(zip(headings, starts, strict=True), start=1):
            assert f"sequence {number} of 4: tokens {start:,} to {start + 15:,} of the stream" in line
        ids = [int(line.split()[0]) for line in lines if line[:3].strip().isdigit()]
        assert ids == batches.read(step, 0, 3)[0].flatten().tolist()
    assert show() == show("--step", "0", "--sequences", "2", "--split", "train")
    assert sum("sequence" in line for line in show("--sequences", "9")) == 4, "there are no more in a batch"


def test_a_heading_counts_documents_and_says_where_attention_stops(show: Show) -> None:
    def shown() -> list[tuple[str, list[str]]]:
        outputs = ("\n".join(show("--step", str(step), "--sequences", "4")) for step in range(6))
        blocks = (block.split("\n") for output in outputs for block in output.split("\n\n")[1:])
        return [(heading, text) for heading, *text in blocks]

    for heading, text in shown():
        ends = text[:-1].count(BOUNDARY)
        assert heading.endswith(f"of the stream, {ends + 1} documents")
    assert any(text[-1] == BOUNDARY for _, text in shown()), "one ends with its window, and none begins"
    write_settings(attention_across_documents=False)
    for heading, _ in shown():
        assert heading.endswith(" documents; attention stops at document boundaries")


def test_held_out_documents_are_shown_from_their_start_as_far_as_a_context_goes(show: Show) -> None:
    assert show("--split", "validation") == [
        f"tokenizer {load_tokenizer(paths.TOKENIZER).name}: vocabulary of 261 tokens",
        "validation: 24 tokens, 2 documents, 0.500 tokens per byte",
        "",
        "document 1 of 2: tokens 0 to 2 of the stream",
        "To│ be",
        BOUNDARY,
        "",
        "document 2 of 2: tokens 3 to 23 of the stream",
        "│".join("é" * 16),
        "… 5 more tokens",
    ]
    assert show("--split", "test", "--sequences", "1")[3] == "document 1 of 1: tokens 0 to 20 of the stream"


@pytest.mark.parametrize(
    ("arguments", "keyword"),
    [
        (["--step", "-1"], "--step: must be a whole number of at least 0"),
        (["--step", "1" + "0" * 13], "--step: must be a whole number of at least 0 and at most"),
        (["--sequences", "0"], "--sequences: must be a whole number of at least 1"),
        (["--split", "tset"], "--split: must be train or validation or test, not 'tset'; did you mean test?"),
    ],
)
def test_a_wrong_argument_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], keyword: str
) -> None:
    assert main(["tokens", "show", *arguments]) == 2
    assert keyword in capsys.readouterr().err


def remove_tokens() -> None:
    (paths.TOKENS / "index.json").unlink()


def change_tokenizer() -> None:
    write_tokenizer(paths.TOKENIZER, PIECES[:2])


def shorten() -> None:
    write_tokens({"train": [TO] * 31})


@pytest.mark.parametrize(
    ("damage", "arguments", "keyword"),
    [
        (remove_tokens, [], "data/tokens/index.json: not found; run `gpt tokenize` first"),
        (change_tokenizer, [], "data/tokens: made by another tokenizer than models/tokenizer"),
        (shorten, [], "fewer than two windows"),
        (lambda: None, ["--split", "test", "--step", "0"], "--step: only the train split has batches"),
    ],
    ids=["no tokens", "another tokenizer", "too few tokens", "a step of the test split"],
)
def test_what_cannot_be_shown_is_one_clear_error(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[], None],
    arguments: list[str],
    keyword: str,
) -> None:
    damage()
    assert main(["tokens", "show", *arguments]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert keyword in line
