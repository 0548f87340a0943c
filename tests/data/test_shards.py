import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.data.corpus import SPLITS
from gpt.data.shards import TokenReader, data_id, read_index, tokenize, verify_shards
from gpt.data.tokenizer import build_tokenizer, load_tokenizer, tokenizer_id
from gpt.errors import UserError
from gpt.files import sha256_file, sha256_tree, write_json
from gpt.params import Tokenize, Tokenizer

TEXTS = [f"document {number}: " + "naïve text " * (number % 7) + "<|endoftext|>" * (number % 3) for number in range(40)]
BY_SPLIT = {"train": TEXTS[:30], "validation": TEXTS[30:35], "test": TEXTS[35:]}


def write_documents(folder: Path, by_split: dict[str, list[str]]) -> None:
    folder.mkdir(exist_ok=True)
    counts = {}
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in by_split[split]), encoding="utf-8")
        size = sum(len(text.encode()) for text in by_split[split])
        counts[split] = {"documents": len(by_split[split]), "bytes": size, "sha256": sha256_file(path)}
    write_json(folder / "documents.json", counts)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents and a tokenizer of them."""
    folder = tmp_path_factory.mktemp("made")
    write_documents(folder / "documents", BY_SPLIT)
    build_tokenizer(Tokenizer(kind="bpe", vocab_size=280), BY_SPLIT["train"], folder / "tokenizer")
    return folder


def write_shards(made: Path, output: Path, shard_tokens: int = 1024) -> dict[str, Any]:
    # Smaller shards than params.yaml allows, so that there are many of few tokens.
    settings = Tokenize.model_construct(shard_tokens=shard_tokens)
    return tokenize(settings, made / "documents", made / "tokenizer", output)


def encoded(made: Path, split: str) -> list[int]:
    encoding = load_tokenizer(made / "tokenizer")
    return [token for text in BY_SPLIT[split] for token in (*encoding.encode_ordinary(text), encoding.eot_token)]


@given(st.integers(30, 2000), st.data())
@settings(deadline=None, max_examples=20)
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
    assert [encoding.decode(reader.read(a, b - a).tolist()[:-1]) for a, b in spans] == BY_SPLIT["train"]
    assert all(reader.read(b - 1, 1) == encoding.eot_token for _, b in spans)
    verify_shards(output)


def test_shards_are_full_but_the_last(made: Path, tmp_path: Path) -> None:
    index = write_shards(made, tmp_path / "tokens", shard_tokens=100)
    shards = index["splits"]["train"]["shards"]
    total = len(encoded(made, "train"))
    assert [shard["tokens"] for shard in shards] == [100] * (total // 100) + ([total % 100] if total % 100 else [])
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
        assert reader.documents_sha256 == sha256_file(made / "documents" / f"{split}.jsonl")
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
    settings = Tokenizer(kind="char", vocab_size=100_000)
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
    with pytest.raises(UserError, match=r"train_00001\.bin: SHA-256 is "):
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
    path = tmp_path / "documents" / "test.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))  # a whole line less
    with pytest.raises(UserError, match=r"test\.jsonl: SHA-256 is .*run `gpt prepare` again"):
        tokenize(Tokenize(shard_tokens=1024), tmp_path / "documents", made / "tokenizer", tmp_path / "tokens")
    assert sha256_tree(tmp_path / "tokens") == before
