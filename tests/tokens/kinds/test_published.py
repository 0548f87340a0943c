"""Encodings of tiktoken by name: here those of a plugin, as the public ones need the network once."""

from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tiktoken.registry
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.errors import UserError
from gpt.params.tokens import TiktokenTokenizer
from gpt.tokens.encoding import Encoding
from gpt.tokens.tokenizer import END_OF_TEXT, build_tokenizer, load_tokenizer

NAMES = ("<|im_start|>", "<|im_end|>")
WORDS = (b"to", b" b", b" be", b"or", b" n", b" no", b" not")


def parts(special: dict[str, int]) -> dict[str, Any]:
    ranks = {bytes([byte]): byte for byte in range(256)} | {word: 256 + n for n, word in enumerate(WORDS)}
    return {"name": "x", "pat_str": r" ?\p{L}+|[^\p{L}]", "mergeable_ranks": ranks, "special_tokens": special}


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """tiktoken knows `gaps`, whose special tokens are no neighbours, as o200k_base's, and `endless`, which has no <|endoftext|>."""
    constructors = {
        "gaps": lambda: parts({END_OF_TEXT: 264, "<|endofprompt|>": 268}),
        "aliases": lambda: parts({END_OF_TEXT: 263, "<|endofprompt|>": 264, "<|reserved_264|>": 264}),
        "endless": lambda: parts({"</s>": 263}),
    }
    monkeypatch.setattr(tiktoken.registry, "ENCODING_CONSTRUCTORS", constructors)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})


def build(folder: Path, encoding: str, names: tuple[str, ...] = NAMES) -> Encoding:
    asked = TiktokenTokenizer(kind="tiktoken", train_bytes=1, special_tokens=names, encoding=encoding)
    return build_tokenizer(asked, [], folder)


def test_ids_are_the_encodings_own_and_every_id_has_a_token(tmp_path: Path) -> None:
    encoding, original = build(tmp_path / "tokenizer", "gaps"), tiktoken.get_encoding("gaps")
    text = "to be or not to be <|endofprompt|> 🙂"
    assert encoding.encode_ordinary(text) == original.encode_ordinary(text)
    assert (encoding.eot_token, encoding.encode_single_token("<|endofprompt|>")) == (264, 268)
    assert [encoding.encode_single_token(name) for name in NAMES] == [269, 270]
    assert encoding.n_vocab == 271
    assert all(encoding.decode_single_token_bytes(token) for token in range(encoding.n_vocab))
    assert encoding.decode([263]) == "<|unused_263|>"


def test_of_two_names_of_one_id_the_first_one_stays(tmp_path: Path) -> None:
    """As o200k_harmony has it."""
    encoding = build(tmp_path / "tokenizer", "aliases")
    assert encoding.special_tokens_set == {END_OF_TEXT, "<|endofprompt|>", *NAMES}
    assert [encoding.encode_single_token(name) for name in ("<|endofprompt|>", *NAMES)] == [264, 265, 266]
    assert encoding.n_vocab == 267


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None, max_examples=100)
def test_loaded_it_gives_back_every_text_and_no_text_becomes_a_special_token(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "published"
    if not folder.exists():
        build(folder, "gaps")
    encoding = load_tokenizer(folder)
    for spelled in (text, f"{text}<|im_start|>{text}", f"{END_OF_TEXT}<|unused_263|>"):
        tokens = encoding.encode_ordinary(spelled)
        assert encoding.decode(tokens) == spelled
        assert all(token < 263 for token in tokens)


@pytest.mark.parametrize("name", ["<|endofprompt|>", "<|unused_263|>", " not"])
def test_a_reserved_name_that_is_taken_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.special_tokens: .* is a token already; take it out"):
        build(tmp_path / "tokenizer", "gaps", (name,))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", r"tokenizer\.encoding = nothing: tiktoken has no such encoding; it has aliases, endless, gaps"),
        ("endless", r"tokenizer\.encoding = endless: has no <\|endoftext\|>, which ends documents"),
    ],
)
def test_an_encoding_that_cannot_be_used_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(tmp_path / "tokenizer", name)


def test_without_a_network_it_says_how_to_fill_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiktoken.registry, "ENCODING_CONSTRUCTORS", None)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "empty"))
    for proxy in ("https_proxy", "HTTPS_PROXY"):  # nobody listens there
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"is not in tiktoken's cache and cannot be brought .*TIKTOKEN_CACHE_DIR"):
        build(tmp_path / "tokenizer", "o200k_base")
