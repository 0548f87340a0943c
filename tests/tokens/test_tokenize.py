import json
import os
import resource
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.corpus.documents import read_file
from gpt.corpus.splits import SPLITS
from gpt.errors import UserError
from gpt.files import sha256_file, sha256_tree, write_json
from gpt.params.engine import Engine
from gpt.params.tokens import Tokenize, Tokenizer
from gpt.tokens.shards import TokenReader, data_id, read_index
from gpt.tokens.tokenize import document_key, tokenize
from gpt.tokens.tokenizer import build_tokenizer, load_tokenizer, tokenizer_id
from gpt.tokens.verification import verify_shards
from tests.tasks.killed import run_and_kill
from tests.tasks.power import Disk

TEXTS = [f"document {number}: " + "naïve text " * (number % 7) + "<|endoftext|>" * (number % 3) for number in range(40)]
SEED = 7
BY_SPLIT = {"train": TEXTS[:30], "validation": TEXTS[30:35], "test": TEXTS[35:]}


def write_documents(folder: Path, by_split: dict[str, list[str]], files: int = 1) -> None:
    """Write texts as `gpt prepare` would, dealt to so many files; every third document is of the source `b`."""
    folder.mkdir(exist_ok=True)
    described = {}
    for split in SPLITS:
        entries = []
        for number in range(files):
            path = folder / f"{split}_{number:05d}.jsonl"
            chosen = [(place, text) for place, text in enumerate(by_split[split])][number::files]
            path.write_text(
                "".join(
                    json.dumps({"id": f"{split}{place}", "source": "aab"[place % 3], "text": text, "words": 2}) + "\n"
                    for place, text in chosen
                ),
                encoding="utf-8",
            )
            entries.append({"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)})
        size = sum(len(text.encode()) for text in by_split[split])
        described[split] = {"documents": len(by_split[split]), "bytes": size, "sha256": split, "files": entries}
    write_json(folder / "documents.json", described)


def in_order(by_split: dict[str, list[str]], split: str) -> list[str]:
    """Return a split's texts by source, each in the order of their keys."""
    keys = {place: ("aab"[place % 3], document_key(SEED, f"{split}{place}")) for place in range(len(by_split[split]))}
    return [by_split[split][place] for place in sorted(keys, key=lambda place: keys[place])]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents and a tokenizer of them."""
    folder = tmp_path_factory.mktemp("made")
    write_documents(folder / "documents", BY_SPLIT)
    build_tokenizer(
        Tokenizer(kind="bpe", vocab_size=280, train_bytes=10**9, special_tokens=()),
        BY_SPLIT["train"],
        folder / "tokenizer",
    )
    return folder


def write_shards(
    made: Path,
    output: Path,
    shard_tokens: int = 1024,
    workers: int = 1,
    kind: Literal["local", "ray"] = "local",
    **change: Any,
) -> dict[str, Any]:
    # Smaller shards than params.yaml allows, so that there are many of few tokens.
    values: dict[str, Any] = {"shard_tokens": shard_tokens, "shuffle_seed": SEED} | change
    settings = Tokenize.model_construct(**values)
    engine = Engine(kind=kind, workers=workers, memory_gb=1, slurm_partition="", slurm_time="1:00:00")
    return tokenize(settings, engine, made / "documents", made / "tokenizer", output, output.parent / "tokenize.json")


def encoded(made: Path, split: str) -> list[int]:
    encoding = load_tokenizer(made / "tokenizer")
    texts = in_order(BY_SPLIT, split)
    return [token for text in texts for token in (*encoding.encode_ordinary(text), encoding.eot_token)]


@given(st.integers(150, 2000), st.data())
@settings(deadline=None, max_examples=12)
def test_reading_across_shards_is_reading_their_concatenation(
    made: Path, tmp_path_factory: pytest.TempPathFactory, shard_tokens: int, data: st.DataObject
) -> None:
    output = tmp_path_factory.mktemp("shards") / "tokens"
    write_shards(made, output, shard_tokens=shard_tokens)
    expected = encoded(made, "train")
    reader = TokenReader(output, "train")
    assert reader.tokens == len(expected)
    start = data.draw(st.integers(0, len(expected)))
    end = data.draw(st.integers(start, len(expected)))
    for first, last in ((0, len(expected)), (start, end), (end, end)):
        tokens = reader.read(first, last - first)
        assert tokens.dtype == np.int64
        assert tokens.tolist() == expected[first:last]
    spans = list(reader.document_spans())
    encoding = load_tokenizer(made / "tokenizer")
    assert [encoding.decode(reader.read(a, b - a).tolist()[:-1]) for a, b in spans] == in_order(BY_SPLIT, "train")
    assert all(reader.read(b - 1, 1) == encoding.eot_token for _, b in spans)
    verify_shards(output)


@contextmanager
def few_open_files(more: int) -> Iterator[None]:
    """This process may open so many files at a time besides those that it has open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    newest = os.open(os.devnull, os.O_RDONLY)  # numbers below it may be free, those above are
    free = sum(not Path(f"/dev/fd/{number}").exists() for number in range(newest))
    os.close(newest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (newest + max(0, more - free), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_there_may_be_more_shards_and_files_of_documents_than_open_files(made: Path, tmp_path: Path) -> None:
    write_documents(tmp_path / "documents", BY_SPLIT, files=30)
    shutil.copytree(made / "tokenizer", tmp_path / "tokenizer")
    output = tmp_path / "tokens"
    with few_open_files(16):
        index = write_shards(tmp_path, output, shard_tokens=10)
        assert len(index["splits"]["train"]["shards"]) > 30
        verify_shards(output)
        reader, expected = TokenReader(output, "train"), encoded(made, "train")
        assert reader.read(0, len(expected)).tolist() == expected
        backwards = [reader.read(start, 1).item() for start in reversed(range(len(expected)))]
        assert backwards == expected[::-1]
        assert len(list(reader.document_spans())) == len(BY_SPLIT["train"])


def test_shards_are_full_but_the_last_of_a_source(made: Path, tmp_path: Path) -> None:
    index = write_shards(made, tmp_path / "tokens", shard_tokens=100)
    train = index["splits"]["train"]
    assert [shard["file"] for shard in train["shards"]] == [f"train_{n:05d}.bin" for n in range(len(train["shards"]))]
    for source in "ab":
        total = train["sources"][source]["tokens"]
        sizes = [shard["tokens"] for shard in train["shards"] if shard["source"] == source]
        assert sizes == [100] * (total // 100) + ([total % 100] if total % 100 else [])
    files = {path.name for path in (tmp_path / "tokens").iterdir()}
    named = {shard["file"] for entry in index["splits"].values() for shard in entry["shards"]}
    assert files == named | {"index.json"}


def test_the_index_says_what_the_shards_are(made: Path, tmp_path: Path) -> None:
    index = write_shards(made, tmp_path / "tokens")
    assert read_index(tmp_path / "tokens") == index
    assert index["tokenizer_id"] == tokenizer_id(made / "tokenizer")
    assert (index["vocab_size"], index["end_of_text"], index["dtype"]) == (280, 279, "<u2")
    for split, texts in BY_SPLIT.items():
        reader = TokenReader(tmp_path / "tokens", split)
        assert reader.documents == len(texts)
        assert reader.text_bytes == sum(len(text.encode()) for text in texts)
        assert reader.documents_sha256 == split, "as documents.json has it"
        for shard in index["splits"][split]["shards"]:
            path = tmp_path / "tokens" / shard["file"]
            assert sha256_file(path) == shard["sha256"]
            assert path.stat().st_size == 2 * shard["tokens"]


def test_tokenizing_twice_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shards(made, tmp_path / name)
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")
    assert data_id(tmp_path / "a") == data_id(tmp_path / "b")


@pytest.mark.parametrize(("characters", "dtype"), [(65_279, "<u2"), (65_280, "<u4")])
def test_the_vocabulary_decides_the_width_of_a_token(tmp_path: Path, characters: int, dtype: str) -> None:
    # 256 bytes, so many characters, and <|endoftext|>: 65,536 or 65,537 entries.
    letters = [chr(0x1_0000 + number) for number in range(characters)]
    text = "".join(letters)
    write_documents(tmp_path / "documents", {"train": [text], "validation": [text[-9:]], "test": [text[:9]]})
    settings = Tokenizer(kind="char", vocab_size=100_000, train_bytes=10**9, special_tokens=())
    encoding = build_tokenizer(settings, [text], tmp_path / "tokenizer")
    assert encoding.n_vocab == characters + 257
    index = write_shards(tmp_path, tmp_path / "tokens", shard_tokens=10_000)
    assert index["dtype"] == dtype
    reader = TokenReader(tmp_path / "tokens", "train")
    tokens = reader.read(0, reader.tokens)
    assert tokens.max() == tokens[-1] == encoding.eot_token == encoding.n_vocab - 1
    assert encoding.decode(tokens[:-1].tolist()) == text


Damage = Callable[[Path], Any]


def shard_damage() -> dict[str, tuple[str, Damage]]:
    return {
        "cut off": ("bytes long", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        "emptied": ("0 bytes long", lambda path: path.write_bytes(b"")),
        "too long": ("bytes long", lambda path: path.write_bytes(path.read_bytes() + b"\0\0")),
        "missing": ("missing", lambda path: path.unlink()),
    }


@pytest.mark.parametrize(("message", "damage"), shard_damage().values(), ids=shard_damage())
def test_a_shard_of_another_length_is_a_clear_error(made: Path, tmp_path: Path, message: str, damage: Damage) -> None:
    write_shards(made, tmp_path / "tokens", shard_tokens=100)
    damage(tmp_path / "tokens" / "train_00001.bin")
    with pytest.raises(UserError, match=rf"train_00001\.bin: .*{message}.*run `gpt tokenize` again"):
        TokenReader(tmp_path / "tokens", "train")
    with pytest.raises(UserError, match=r"train_00001\.bin: (SHA-256 is |is not there)"):
        verify_shards(tmp_path / "tokens")
    TokenReader(tmp_path / "tokens", "test")  # the others are whole
    verify_shards(tmp_path / "tokens", ["validation", "test"])


@pytest.mark.parametrize("split", SPLITS)
def test_a_changed_byte_of_a_shard_gives_both_hashes(made: Path, tmp_path: Path, split: str) -> None:
    write_shards(made, tmp_path / "tokens", shard_tokens=50)
    path = tmp_path / "tokens" / f"{split}_00000.bin"
    before = sha256_file(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        verify_shards(tmp_path / "tokens")
    assert str(path) in str(caught.value)
    assert before in str(caught.value)
    assert sha256_file(path) in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"dtype": "<u2"}'])
def test_a_damaged_index_is_a_clear_error(made: Path, tmp_path: Path, content: str | None) -> None:
    write_shards(made, tmp_path / "tokens")
    index = tmp_path / "tokens" / "index.json"
    if content is None:
        index.unlink()
    else:
        index.write_text(content)
    for read in (lambda: TokenReader(tmp_path / "tokens", "train"), lambda: verify_shards(tmp_path / "tokens")):
        with pytest.raises(UserError, match=r"index\.json: .*run `gpt tokenize`"):
            read()


def test_documents_that_are_not_those_counted_are_refused(made: Path, tmp_path: Path) -> None:
    """The index repeats bytes and hash from documents.json, and bits per byte rest on them."""
    write_documents(tmp_path / "documents", BY_SPLIT)
    write_shards(made, tmp_path / "tokens")
    before = sha256_tree(tmp_path / "tokens")
    path = tmp_path / "documents" / "test_00000.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))  # a whole line less
    shutil.copytree(made / "tokenizer", tmp_path / "tokenizer")
    with pytest.raises(UserError, match=r"test_00000\.jsonl: SHA-256 is .*run `gpt prepare` again"):
        write_shards(tmp_path, tmp_path / "tokens")
    assert sha256_tree(tmp_path / "tokens") == before


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, made: Path) -> dict[str, list[str]]:
    return {
        "train": [f"train {number} " + "x" * (number % 50) for number in range(300)],
        "validation": ["v"],
        "test": ["t"],
    }


@pytest.mark.parametrize(
    ("files", "workers", "kind"),
    [(1, 1, "local"), (3, 1, "local"), (3, 2, "local"), pytest.param(3, 2, "ray", marks=pytest.mark.slow)],
)
def test_tokens_depend_neither_on_how_documents_were_divided_nor_on_workers(
    made: Path, many: dict[str, list[str]], tmp_path: Path, files: int, workers: int, kind: Literal["local", "ray"]
) -> None:
    shutil.copytree(made / "tokenizer", tmp_path / "tokenizer")
    write_documents(tmp_path / "documents", many, files)
    write_shards(tmp_path, tmp_path / "tokens", 700, workers, kind)
    encoding = load_tokenizer(made / "tokenizer")
    reader = TokenReader(tmp_path / "tokens", "train")
    texts = [encoding.decode(reader.read(a, b - a).tolist()[:-1]) for a, b in reader.document_spans()]
    assert texts == in_order(many, "train")
    assert texts != many["train"]


RUN = """
import sys
from pathlib import Path
from tests.tokens.test_tokenize import write_shards
if __name__ == "__main__":
    root = Path(sys.argv[1])
    write_shards(root, root / "tokens", 700, 2)
"""


@pytest.mark.parametrize("phase", [".tokens.encoded/*/tasks/encode", ".tokens.work/tasks/shuffle"])
def test_a_killed_run_goes_on_and_makes_the_same_bytes(
    made: Path, many: dict[str, list[str]], tmp_path: Path, phase: str
) -> None:
    for name in ("once", "killed"):
        (tmp_path / name).mkdir()
        shutil.copytree(made / "tokenizer", tmp_path / name / "tokenizer")
        write_documents(tmp_path / name / "documents", many, files=12)
    write_shards(tmp_path / "once", tmp_path / "once" / "tokens", 700)
    marks = run_and_kill(RUN, tmp_path / "killed", phase)
    output = tmp_path / "killed" / "tokens"
    assert not output.exists(), "nothing half-written"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt.tokens.tokenize.statistics", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_shards(tmp_path / "killed", output, 700)
    assert marks == {path: path.stat().st_mtime_ns for path in marks}, "what was done is not done again"
    write_shards(tmp_path / "killed", output, 700)
    assert sha256_tree(output) == sha256_tree(tmp_path / "once" / "tokens")


@pytest.fixture
def count_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of documents that were encoded."""
    files: list[str] = []

    def read(folder: Path, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
        files.append(entry["file"])
        return read_file(folder, entry)

    monkeypatch.setattr("gpt.tokens.encode.read_file", read)
    return files


@pytest.mark.parametrize("change", [{"shuffle_seed": 99}, {"shard_tokens": 50}])
def test_another_order_or_size_of_shards_encodes_no_document_again(
    made: Path, tmp_path: Path, count_read: list[str], change: dict[str, Any]
) -> None:
    write_shards(made, tmp_path / "tokens")
    assert count_read == [f"{split}_00000.jsonl" for split in SPLITS]
    write_shards(made, tmp_path / "tokens", **change)
    assert len(count_read) == 3, "found again"
    (tmp_path / "fresh").mkdir()
    write_shards(made, tmp_path / "fresh" / "tokens", **change)
    assert sha256_tree(tmp_path / "tokens") == sha256_tree(tmp_path / "fresh" / "tokens")


def test_other_documents_are_encoded_anew_and_the_old_tokens_go(
    made: Path, tmp_path: Path, count_read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(made / "tokenizer", tmp_path / "tokenizer")
    for texts in (BY_SPLIT, BY_SPLIT | {"test": ["other"]}):
        write_documents(tmp_path / "documents", texts)
        write_shards(tmp_path, tmp_path / "tokens")
    assert len(count_read) == 6
    assert len(list((tmp_path / ".tokens.encoded").iterdir())) == 1
    assert "test_00000.jsonl: other content" in caplog.text
    assert "train_00000.jsonl" not in caplog.text


@pytest.mark.parametrize("ending", ["tokens", "documents", "names"])
def test_kept_tokens_that_were_damaged_are_not_used(made: Path, tmp_path: Path, ending: str) -> None:
    write_shards(made, tmp_path / "tokens")
    before = sha256_tree(tmp_path / "tokens")
    (path,) = tmp_path.glob(f".tokens.encoded/*/00000.{ending}")
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"00000\.{ending}: SHA-256 is .*remove .*: it is made again"):
        write_shards(made, tmp_path / "tokens", shuffle_seed=99)
    assert sha256_tree(tmp_path / "tokens") == before
    shutil.rmtree(path.parent)
    write_shards(made, tmp_path / "tokens")
    assert sha256_tree(tmp_path / "tokens") == before


def test_a_power_cut_loses_nothing_that_counts_as_done(made: Path, tmp_path: Path) -> None:
    for name in ("once", "cut"):
        (tmp_path / name).mkdir()
    write_shards(made, tmp_path / "once" / "tokens", 100)
    output = tmp_path / "cut" / "tokens"
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        patch.setattr("gpt.tokens.tokenize.statistics", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_shards(made, output, 100)
    (encoded,) = (tmp_path / "cut" / ".tokens.encoded").iterdir()
    for folder in (encoded, tmp_path / "cut" / ".tokens.work"):
        assert any(folder.rglob("completions/*"))
        disk.cut_power(folder)
    write_shards(made, output, 100)
    assert sha256_tree(output) == sha256_tree(tmp_path / "once" / "tokens")


def test_another_seed_is_another_order(made: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_shards(made, tmp_path / str(seed), shuffle_seed=seed)
    readers = [TokenReader(tmp_path / str(seed), "train") for seed in (1, 2)]
    first, second = (reader.read(0, reader.tokens) for reader in readers)
    assert sorted(first) == sorted(second)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("files", [1, 4])
def test_each_source_is_a_stream_of_its_own(made: Path, tmp_path: Path, files: int) -> None:
    shutil.copytree(made / "tokenizer", tmp_path / "tokenizer")
    write_documents(tmp_path / "documents", BY_SPLIT, files)
    write_shards(tmp_path, tmp_path / "tokens", shard_tokens=150)
    reader, encoding = TokenReader(tmp_path / "tokens", "train"), load_tokenizer(made / "tokenizer")
    texts = BY_SPLIT["train"]
    end = 0
    for source in "ab":
        span = reader.sources[source]
        assert span.start == end, "one after the other, and nothing between them"
        end = span.start + span.tokens
        seen = encoding.decode(reader.read(*span).tolist()).split("<|endoftext|>")
        own = [text for place, text in enumerate(texts) if "aab"[place % 3] == source]
        assert Counter(seen) == Counter("<|endoftext|>".join([*own, ""]).split("<|endoftext|>"))
    assert end == reader.tokens


def test_another_source_leaves_the_stream_of_a_source_as_it_is(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "tokenizer", tmp_path / "tokenizer")
    streams = []
    for train in (TEXTS[:30], [text if place % 3 < 2 else "other" for place, text in enumerate(TEXTS[:30])]):
        write_documents(tmp_path / "documents", BY_SPLIT | {"train": train})
        write_shards(tmp_path, tmp_path / "tokens")
        reader = TokenReader(tmp_path / "tokens", "train")
        streams.append([reader.read(*reader.sources[source]).tolist() for source in "ab"])
    assert streams[0][0] == streams[1][0]
    assert streams[0][1] != streams[1][1]


def test_a_split_without_documents_is_an_error(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "tokenizer", tmp_path / "tokenizer")
    write_documents(tmp_path / "documents", BY_SPLIT | {"validation": []})
    with pytest.raises(UserError, match=r"no document in validation; run `gpt prepare` again"):
        write_shards(tmp_path, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_shards_from_before_sources_had_their_own_are_told_apart(made: Path, tmp_path: Path) -> None:
    index = write_shards(made, tmp_path / "tokens")
    del index["splits"]["train"]["shards"][0]["source"]
    write_json(tmp_path / "tokens" / "index.json", index)
    with pytest.raises(UserError, match="does not say which source a shard is of; run `gpt tokenize` again"):
        TokenReader(tmp_path / "tokens", "train")
