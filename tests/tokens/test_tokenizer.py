import base64
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import regex
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.errors import UserError
from gpt.files import sha256_tree, write_json
from gpt.params.tokens import Tokenizer
from gpt.tokens.encoding import Encoding
from gpt.tokens.tokenizer import BPE_PATTERN, END_OF_TEXT, GPT2_PATTERN, build_tokenizer, load_tokenizer, tokenizer_id
from tests import ROOT

Kind = Literal["bpe", "char"]
WORDS = [
    "the",
    "quick",
    "brown",
    "foxes",
    "jumped",
    "over",
    "42",
    "lazy",
    "dogs",
    "and",
    "über-naïve",
    "Ωmega",
    "漢字",
    "don't",
    "stop",
    "😀",
]
DOCUMENTS = [" ".join(random.Random(seed).choices(WORDS, k=60)) + "\n\nEnd.\n" for seed in range(20)]
SETTINGS = {
    "bpe": Tokenizer(kind="bpe", vocab_size=300, train_bytes=10**9, special_tokens=()),
    "char": Tokenizer(kind="char", vocab_size=300, train_bytes=10**9, special_tokens=()),
}


@pytest.fixture(scope="module")
def encodings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tiktoken.Encoding]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {kind: of_tiktoken(build_tokenizer(SETTINGS[kind], DOCUMENTS, folder / kind)) for kind in SETTINGS}


def of_tiktoken(encoding: Encoding) -> tiktoken.Encoding:
    assert isinstance(encoding, tiktoken.Encoding)
    return encoding


@pytest.mark.parametrize("kind", SETTINGS)
@given(
    text=st.text()
    | st.text("th e\n\r\t.'12")
    | st.sampled_from(["", END_OF_TEXT, "\0", "\ufeff", "e\u0301", "a\r\n b"])
)
@settings(deadline=None, max_examples=150)
def test_any_text_comes_back(encodings: dict[str, tiktoken.Encoding], kind: Kind, text: str) -> None:
    encoding = encodings[kind]
    tokens = encoding.encode_ordinary(text)
    assert encoding.decode_bytes(tokens) == text.encode()
    assert encoding.decode(tokens) == text
    assert encoding.eot_token not in tokens


# As their publishers write them: possessive, so that an engine without automata does not go back.
USUAL = {
    GPT2_PATTERN: r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""",
    BPE_PATTERN: r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,2}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"""
    r"""|\s*[\r\n]|\s+(?!\S)|\s""",
}


@pytest.mark.parametrize("pattern", USUAL)
@given(text=st.text() | st.text("  \t\n\r\x0b\x85\xa0\u2028\u3000'sSdlLvreſKé\u0301\u0660１²漢🙂!_\u200b\0"))
@settings(deadline=None, max_examples=500)
def test_patterns_cut_text_as_their_usual_forms(pattern: str, text: str) -> None:
    assert regex.findall(pattern, text) == regex.findall(USUAL[pattern], text)


@pytest.mark.parametrize("run", [" ", "\t", "\n", "\r\n", "\u3000", "e\u0301", "1", "!"])
@pytest.mark.parametrize("pattern", USUAL)
def test_a_run_of_millions_comes_back(encodings: dict[str, tiktoken.Encoding], pattern: str, run: str) -> None:
    encoding = tiktoken.Encoding(
        "runs", pat_str=pattern, mergeable_ranks=encodings["bpe"]._mergeable_ranks, special_tokens={}
    )
    text = f"a{run * 1_500_000}b"
    assert encoding.decode(encoding.encode_ordinary(text)) == text


def test_bpe_learns_from_a_run_of_millions(tmp_path: Path) -> None:
    build_tokenizer(SETTINGS["bpe"], [*DOCUMENTS, "a" + "\t" * 1_500_000 + "b"], tmp_path / "tokenizer")
    encoding = of_tiktoken(load_tokenizer(tmp_path / "tokenizer"))
    assert any(set(piece) == {ord("\t")} and len(piece) > 1 for piece in encoding.token_byte_values())
    assert encoding.decode(encoding.encode_ordinary("a" + "\t" * 1000 + "b")) == "a" + "\t" * 1000 + "b"


@pytest.mark.parametrize("kind", SETTINGS)
def test_spelling_out_the_end_of_text_does_not_encode_to_it(
    encodings: dict[str, tiktoken.Encoding], kind: Kind
) -> None:
    encoding = encodings[kind]
    assert encoding.eot_token == encoding.n_vocab - 1
    assert encoding.decode([encoding.eot_token]) == END_OF_TEXT
    for text in (END_OF_TEXT, f"a{END_OF_TEXT}b", END_OF_TEXT * 3):
        assert encoding.eot_token not in encoding.encode_ordinary(text)
        (batch,) = encoding.encode_ordinary_batch([text])
        assert encoding.eot_token not in batch


def test_bpe_has_exactly_the_vocabulary_asked_for(encodings: dict[str, tiktoken.Encoding]) -> None:
    assert encodings["bpe"].n_vocab == 300
    values = sorted(encodings["bpe"].token_byte_values())
    assert len(set(values)) == 299
    assert {bytes([byte]) for byte in range(256)} <= set(values)


def test_bpe_learns_frequent_words(encodings: dict[str, tiktoken.Encoding]) -> None:
    text = DOCUMENTS[0]
    assert len(encodings["bpe"].encode_ordinary(text)) < len(text.encode()) / 1.5


def test_char_gives_every_character_of_the_documents_one_token(encodings: dict[str, tiktoken.Encoding]) -> None:
    encoding = encodings["char"]
    assert len(encoding.encode_ordinary(DOCUMENTS[0])) == len(DOCUMENTS[0])
    several = {character for document in DOCUMENTS for character in document if len(character.encode()) > 1}
    assert encoding.n_vocab == 256 + len(several) + 1
    assert len(encoding.encode_ordinary("界")) == 3  # not in the documents: its bytes


@pytest.mark.parametrize("kind", SETTINGS)
def test_training_twice_gives_the_same_bytes(tmp_path: Path, kind: Kind) -> None:
    build_tokenizer(SETTINGS[kind], iter(DOCUMENTS), tmp_path / "here")
    # Another process has other hash seeds, and here another number of threads.
    code = (
        "import json, sys; from pathlib import Path; from gpt.params.tokens import Tokenizer;"
        " from gpt.tokens.tokenizer import build_tokenizer;"
        " settings = Tokenizer(kind=sys.argv[1], vocab_size=300, train_bytes=10**9, special_tokens=());"
        " build_tokenizer(settings, json.load(sys.stdin), Path(sys.argv[2]))"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", code, kind, str(tmp_path / "there")]
    subprocess.run(command, check=True, env=env, input=json.dumps(DOCUMENTS).encode())
    assert sha256_tree(tmp_path / "here") == sha256_tree(tmp_path / "there")
    assert tokenizer_id(tmp_path / "here") == tokenizer_id(tmp_path / "there")


def test_other_text_gives_another_identity(tmp_path: Path) -> None:
    build_tokenizer(SETTINGS["bpe"], DOCUMENTS, tmp_path / "a")
    build_tokenizer(SETTINGS["bpe"], [text.upper() for text in DOCUMENTS], tmp_path / "b")
    assert tokenizer_id(tmp_path / "a") != tokenizer_id(tmp_path / "b")


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_loaded_tokenizer_is_the_one_that_was_saved(tmp_path: Path, kind: Kind) -> None:
    built = build_tokenizer(SETTINGS[kind], DOCUMENTS, tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert [loaded.encode_ordinary(text) for text in DOCUMENTS] == [built.encode_ordinary(text) for text in DOCUMENTS]
    assert (loaded.n_vocab, loaded.eot_token) == (built.n_vocab, built.eot_token)


@pytest.mark.parametrize(
    ("settings", "documents"),
    [
        (Tokenizer(kind="bpe", vocab_size=1000, train_bytes=10**9, special_tokens=()), ["a short text"]),
        (Tokenizer(kind="bpe", vocab_size=258, train_bytes=10**9, special_tokens=()), []),
        (Tokenizer(kind="char", vocab_size=258, train_bytes=10**9, special_tokens=()), ["äöü"]),
    ],
)
def test_a_vocabulary_that_does_not_fit_the_text_is_refused(
    tmp_path: Path, settings: Tokenizer, documents: list[str]
) -> None:
    with pytest.raises(UserError, match=rf"^params\.yaml: tokenizer\.vocab_size = {settings.vocab_size}: "):
        build_tokenizer(settings, documents, tmp_path / "tokenizer")
    assert list(tmp_path.iterdir()) == []


def change_json(folder: Path, **values: Any) -> None:
    path = folder / "tokenizer.json"
    write_json(path, json.loads(path.read_text()) | values)


def flip_bit(folder: Path) -> None:
    data = bytearray((folder / "ranks.tiktoken").read_bytes())
    data[10] ^= 1
    (folder / "ranks.tiktoken").write_bytes(data)


def cut_off(folder: Path) -> None:
    lines = (folder / "ranks.tiktoken").read_bytes().splitlines(keepends=True)
    (folder / "ranks.tiktoken").write_bytes(b"".join(lines[:-1]))


DAMAGE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "a flipped bit": ("ranks.tiktoken: damaged", flip_bit),
    "ranks cut off": ("ranks.tiktoken: damaged", cut_off),
    "no ranks": ("ranks.tiktoken: not found", lambda folder: (folder / "ranks.tiktoken").unlink()),
    "no description": ("tokenizer.json: not found", lambda folder: (folder / "tokenizer.json").unlink()),
    "description cut off": ("not valid JSON", lambda folder: (folder / "tokenizer.json").write_text('{"kind"')),
    "empty description": ("has no kind", lambda folder: (folder / "tokenizer.json").write_text("{}")),
    "description of another type": ("has no kind", lambda folder: (folder / "tokenizer.json").write_text("[]")),
    "another vocabulary": ("tokenizer.json: does not fit", lambda folder: change_json(folder, vocab_size=17)),
    "another end of text": (
        "tokenizer.json: does not fit",
        lambda folder: change_json(folder, special_tokens={END_OF_TEXT: "last"}),
    ),
    "a pattern that is none": ("tokenizer.json: does not fit", lambda folder: change_json(folder, pattern="(")),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_tokenizer_is_a_clear_error(tmp_path: Path, message: str, damage: Callable[[Path], Any]) -> None:
    build_tokenizer(SETTINGS["bpe"], DOCUMENTS, tmp_path / "tokenizer")
    damage(tmp_path / "tokenizer")
    with pytest.raises(UserError, match="gpt tokenizer") as caught:
        load_tokenizer(tmp_path / "tokenizer")
    assert message in str(caught.value)


def test_ranks_on_disk_are_in_tiktokens_own_format(tmp_path: Path) -> None:
    from tiktoken.load import load_tiktoken_bpe

    encoding = build_tokenizer(SETTINGS["bpe"], DOCUMENTS, tmp_path / "tokenizer")
    ranks = load_tiktoken_bpe(str(tmp_path / "tokenizer" / "ranks.tiktoken"))
    assert [token for token, _ in sorted(ranks.items(), key=lambda item: item[1])] == [
        encoding.decode_single_token_bytes(rank) for rank in range(299)
    ]
    first = (tmp_path / "tokenizer" / "ranks.tiktoken").read_bytes().splitlines()[0]
    assert base64.b64decode(first.split()[0]) == encoding.decode_single_token_bytes(0)


@pytest.mark.slow
def test_gpt2_is_openais(tmp_path: Path) -> None:
    encoding = build_tokenizer(
        Tokenizer(kind="gpt2", vocab_size=50257, train_bytes=10**9, special_tokens=()), [], tmp_path / "tokenizer"
    )
    assert encoding.encode_ordinary("Hello, I am") == [15496, 11, 314, 716]
    assert (encoding.n_vocab, encoding.eot_token) == (50257, 50256)
    text = "naïve 漢字 😀\r\n\t  x"
    assert encoding.decode(encoding.encode_ordinary(text)) == text


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_order_of_documents_changes_no_byte(tmp_path: Path, kind: Kind) -> None:
    """A sample comes in the order of the files, which depends on their number."""
    made = set()
    for seed in range(4):
        documents = random.Random(seed).sample(DOCUMENTS, len(DOCUMENTS))
        build_tokenizer(SETTINGS[kind], documents, tmp_path / str(seed))
        made.add(sha256_tree(tmp_path / str(seed)))
    assert len(made) == 1


@pytest.mark.parametrize("kind", SETTINGS)
def test_reserved_tokens_come_after_all_others_and_leave_these_as_they_are(tmp_path: Path, kind: Kind) -> None:
    names = ("<|im_start|>", "<|fim_prefix|>")
    plain = build_tokenizer(SETTINGS[kind], DOCUMENTS, tmp_path / "plain")
    more = build_tokenizer(SETTINGS[kind].model_copy(update={"special_tokens": names}), DOCUMENTS, tmp_path / "more")
    assert more.n_vocab == plain.n_vocab + 2
    assert [more.encode_single_token(name) for name in names] == [plain.n_vocab, plain.n_vocab + 1]
    assert more.eot_token == plain.eot_token
    for text in (*DOCUMENTS, "<|im_start|>user<|fim_prefix|>"):
        tokens = more.encode_ordinary(text)
        assert tokens == plain.encode_ordinary(text)
        assert max(tokens) < plain.eot_token
    assert load_tokenizer(tmp_path / "more").decode([plain.n_vocab, plain.n_vocab + 1]) == "".join(names)


def test_a_reserved_name_that_is_taken_is_an_error(tmp_path: Path) -> None:
    asked = SETTINGS["bpe"].model_copy(update={"special_tokens": ("a",)})
    with pytest.raises(UserError, match=r"tokenizer\.special_tokens: a is a token already"):
        build_tokenizer(asked, DOCUMENTS, tmp_path / "tokenizer")
