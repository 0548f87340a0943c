import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from gpt.errors import UserError
from gpt.files import sha256_file, sha256_tree
from gpt.params.tokens import HuggingFaceTokenizer
from gpt.tokens.encoding import Encoding
from gpt.tokens.tokenizer import build_tokenizer, encode_document, encode_with_sizes, load_tokenizer, tokenizer_id
from tests.tokens.kinds.made import TEXTS, byte_level, save, sentencepiece_bpe, unigram, with_words

KINDS: dict[str, tuple[Callable[[], tokenizers.Tokenizer], str]] = {
    "byte-level": (byte_level, "<|endoftext|>"),
    "sentencepiece": (sentencepiece_bpe, "</s>"),
    "unigram": (unigram, "</s>"),
}
NAMES = ("<|im_start|>", "<|im_end|>")
WORDS = [" ", "▁", "  ", "</s>", "<|endoftext|>", "<|im_start|>", "<unk>", "<0x0A>", "Ġ", "🙂", "the", "\n"]
TEXT = st.lists(st.characters(exclude_categories=["Cs"]) | st.sampled_from(WORDS), max_size=30).map("".join)


def asked_for(file: Path, end_of_text: str = "</s>", names: tuple[str, ...] = ()) -> HuggingFaceTokenizer:
    values: dict[str, Any] = {"file": str(file), "sha256": sha256_file(file), "end_of_text": end_of_text}
    return HuggingFaceTokenizer(kind="huggingface", train_bytes=1, special_tokens=names, **values)


def build(folder: Path, made: tokenizers.Tokenizer, end_of_text: str, names: tuple[str, ...] = NAMES) -> Encoding:
    folder.mkdir(parents=True, exist_ok=True)
    file = save(made, folder / "given.json")
    return build_tokenizer(asked_for(file, end_of_text, names), [], folder / "tokenizer")


@pytest.fixture(scope="module")
def encodings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoding]:
    root = tmp_path_factory.mktemp("kinds")
    return {kind: build(root / kind, make(), end) for kind, (make, end) in KINDS.items()}


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
@given(text=TEXT)
@settings(deadline=None, max_examples=150)
def test_tokens_give_back_the_bytes_of_every_text(encodings: dict[str, Encoding], kind: str, text: str) -> None:
    encoding = encodings[kind]
    tokens = encoding.encode_ordinary(text)
    found = encoding.decode_bytes(tokens)
    assert b"".join(encoding.decode_single_token_bytes(token) for token in tokens) == found
    spaced = kind == "sentencepiece"
    if not any(name in text for name in encoding.special_tokens_set):  # SentencePiece's puts spaces where these are cut
        text = text.replace("▁", " ") if spaced else text  # that is its letter for a space
        assert found == ((b" " if spaced and text else b"") + text.encode())
    assert encoding.encode_to_numpy(text, disallowed_special=()).tolist() == encoding.encode_ordinary(text)


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXT)
@settings(deadline=None, max_examples=150)
def test_no_text_becomes_a_special_token(encodings: dict[str, Encoding], kind: str, text: str) -> None:
    encoding = encodings[kind]
    special = {encoding.encode_single_token(name) for name in encoding.special_tokens_set}
    assert {encoding.eot_token, *map(encoding.encode_single_token, NAMES)} <= special
    tokens = encode_document(encoding, text).tolist()
    assert special.isdisjoint(tokens[:-1])
    assert tokens[-1] == encoding.eot_token
    assert max(tokens) < encoding.n_vocab


def test_a_vocabulary_that_takes_a_special_tokens_name_for_a_word_is_kept_from_it(
    encodings: dict[str, Encoding],
) -> None:
    """Unigram's own model finds </s> among its pieces, whatever the library was told."""
    plain = tokenizers.Tokenizer.from_str(unigram().to_str())
    plain.encode_special_tokens = True
    assert encodings["unigram"].eot_token in plain.encode("to be </s>", add_special_tokens=False).ids, (
        "or it tests nothing"
    )
    assert encodings["unigram"].eot_token not in encodings["unigram"].encode_ordinary("to be </s>")


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXT)
@settings(deadline=None, max_examples=150)
def test_the_bytes_of_tokens_add_up_to_those_of_the_text(encodings: dict[str, Encoding], kind: str, text: str) -> None:
    """So bits per byte are of the text, also where tokens do not give it back."""
    tokens, sizes = encode_with_sizes(encodings[kind], text)
    assert tokens.tolist() == encode_document(encodings[kind], text).tolist()
    assert len(sizes) == len(tokens) and sizes.dtype == np.uint32
    assert sizes.sum() == len(text.encode())


def test_a_token_has_the_bytes_where_it_stands_in_the_text(encodings: dict[str, Encoding]) -> None:
    for kind, encoding in encodings.items():
        text = "to be – the naïve question"
        tokens, sizes = encode_with_sizes(encoding, text)
        ends = np.cumsum(sizes)
        for token, start, end in zip(tokens[:-1].tolist(), ends - sizes, ends, strict=False):
            own = encoding.decode_single_token_bytes(token).strip()
            # Where a text is not given back byte by byte, the first of a character's bytes has them all.
            assert own in text.encode()[start:end] or (len(own) == 1 and kind == "sentencepiece")


@pytest.mark.parametrize("kind", KINDS)
def test_reserved_tokens_come_after_all_others_and_leave_these_as_they_are(tmp_path: Path, kind: str) -> None:
    make, end = KINDS[kind]
    made = make()
    plain, more = build(tmp_path / "plain", made, end, ()), build(tmp_path / "more", made, end)
    assert more.n_vocab == plain.n_vocab + 2
    assert [more.encode_single_token(name) for name in NAMES] == [plain.n_vocab, plain.n_vocab + 1]
    assert more.eot_token == plain.eot_token
    for text in TEXTS:
        assert more.encode_ordinary(text) == plain.encode_ordinary(text)
    assert [more.decode_single_token_bytes(plain.n_vocab)] == [b"<|im_start|>"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_kept_as_data_and_the_same_after_loading(tmp_path: Path, kind: str) -> None:
    make, end = KINDS[kind]
    file = save(make(), tmp_path / "given.json")
    asked = asked_for(file, end, NAMES)
    built = build_tokenizer(asked, [], tmp_path / "a")
    build_tokenizer(asked, [], tmp_path / "b")
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["huggingface.json", "tokenizer.json"]
    loaded = load_tokenizer(tmp_path / "a")
    assert loaded.name == f"huggingface-{tokenizer_id(tmp_path / 'a')[:12]}"
    assert loaded.n_vocab == built.n_vocab == json.loads((tmp_path / "a" / "tokenizer.json").read_text())["vocab_size"]
    for text in TEXTS:
        assert loaded.encode_ordinary(text) == built.encode_ordinary(text)


def test_an_end_of_text_that_the_file_lacks_is_added(tmp_path: Path) -> None:
    size = byte_level().get_vocab_size()
    encoding = build(tmp_path, byte_level(), "<|end|>")
    assert encoding.eot_token == size
    assert encoding.encode_single_token("<|im_start|>") == size + 1
    assert encoding.decode(encoding.encode_ordinary("a<|end|>b")) == "a<|end|>b"


def test_a_files_own_words_stay_words(tmp_path: Path) -> None:
    encoding = build(tmp_path, with_words(byte_level(), "<think>"), "<|endoftext|>")
    word = encoding.encode_single_token("<think>")
    assert word in encoding.encode_ordinary("to <think> be")
    assert encoding.decode(encoding.encode_ordinary("to <think> be")) == "to <think> be"


def test_what_normalises_loses_bytes_and_nothing_else_breaks(tmp_path: Path) -> None:
    encoding = build(tmp_path, unigram(normalizers.NFKC()), "</s>")
    text = "ﬁ x² 🙂 to be"
    tokens, sizes = encode_with_sizes(encoding, text)
    assert encoding.decode_bytes(tokens[:-1].tolist()) != text.encode()
    assert sizes.sum() == len(text.encode())


def gap(values: dict[str, Any]) -> None:
    vocabulary = values["model"]["vocab"]
    vocabulary[max(vocabulary, key=lambda token: vocabulary[token])] += 3


def doubled(values: dict[str, Any]) -> None:
    vocabulary = values["model"]["vocab"]
    vocabulary[max(vocabulary, key=lambda token: vocabulary[token])] = 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (gap, r"given\.json: its 330 ids are not 0, 1, 2, … each once: no token has id 329"),
        (doubled, r"given\.json: its 330 ids are not 0, 1, 2, … each once: two tokens have id 5"),
        (lambda values: values.pop("model"), r"given\.json: not a tokenizer\.json"),
    ],
    ids=["a gap", "two of one id", "no model"],
)
def test_a_file_that_is_no_tokenizer_or_has_other_ids_is_an_error(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    values = json.loads(byte_level().to_str())
    change(values)
    file = tmp_path / "given.json"
    file.write_text(json.dumps(values))
    asked = asked_for(file)
    with pytest.raises(UserError, match=message):
        build_tokenizer(asked, [], tmp_path / "tokenizer")
    assert not (tmp_path / "tokenizer").exists()


def test_sentencepieces_own_model_is_no_tokenizer_json(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x80\xbf")
    asked = asked_for(file)
    with pytest.raises(UserError, match=r"tokenizer\.model: not a tokenizer\.json, but no text at all; name a"):
        build_tokenizer(asked, [], tmp_path / "tokenizer")


@pytest.mark.parametrize("name", ["<|endoftext|> ", "the", "<s>"])
def test_a_reserved_name_that_is_taken_is_an_error(tmp_path: Path, name: str) -> None:
    made = sentencepiece_bpe() if name == "<s>" else byte_level()
    if made.token_to_id(name) is None:
        made.add_tokens([name])
    with pytest.raises(UserError, match=r"tokenizer\.special_tokens: .* is a token of .*given\.json already"):
        build(tmp_path, made, "<|endoftext|>", (name,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"file": "nowhere.json", "sha256": "0" * 64}, r"tokenizer\.file = nowhere\.json: there is no such file"),
        (
            {"sha256": "0" * 64},
            r"params\.yaml: tokenizer: .*given\.json: SHA-256 is .*tokenizer\.sha256 in params\.yaml says",
        ),
    ],
)
def test_another_file_than_params_yaml_names_is_an_error(tmp_path: Path, values: dict[str, str], message: str) -> None:
    file = save(byte_level(), tmp_path / "given.json")
    own: dict[str, Any] = {"file": str(file), "end_of_text": "</s>"} | values
    asked = HuggingFaceTokenizer(kind="huggingface", train_bytes=1, special_tokens=(), **own)
    with pytest.raises(UserError, match=message):
        build_tokenizer(asked, [], tmp_path / "tokenizer")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: path.write_text(path.read_text() + " "),
            r"huggingface\.json: damaged .*run `gpt tokenizer` again",
        ),
        (lambda path: path.unlink(), r"huggingface\.json: not found; run `gpt tokenizer` again"),
    ],
)
def test_a_damaged_tokenizer_is_told(tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    build(tmp_path, byte_level(), "<|endoftext|>")
    damage(tmp_path / "tokenizer" / "huggingface.json")
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path / "tokenizer")
