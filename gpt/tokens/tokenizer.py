"""Tokenizers: byte-level BPE trained here, characters, GPT-2's, another encoding of tiktoken, or a tokenizer.json of Hugging Face.

All but the last are a `tiktoken.Encoding` and lossless on any Unicode: every byte is in the vocabulary. On disk a tokenizer is two
files: `tokenizer.json` (kind, special tokens, size, hash of the other) and what it is made of, `ranks.tiktoken` (tiktoken's own
format) or `huggingface.json`.
"""

import base64
import tempfile
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken

from gpt.errors import UserError, located
from gpt.files import atomic_folder, read_json, sha256_file, sha256_json, verify_file, write_json
from gpt.params.sources import PypiSource
from gpt.params.tokens import END_OF_TEXT, HuggingFaceTokenizer, TiktokenTokenizer
from gpt.params.tokens import Tokenizer as LearnedTokenizer
from gpt.tokens.encoding import Encoding
from gpt.tokens.kinds import huggingface
from gpt.tokens.kinds.huggingface import HuggingFaceEncoding

# A group that an automaton can match, then what must look ahead: the tokens of the usual form, in 0.6 of its time. White space
# comes in runs of at most 65,536, as an engine that goes back a character at a time has no room for a million.
GPT2_PATTERN = r"""(?:'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+$)|\s{1,65536}(?!\S)|\s"""
# As GPT-2's, but a word may carry any leading mark, digits go in pairs, and line ends stay with what ends them.
BPE_PATTERN = (
    r"""(?:'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+$|\s*[\r\n])"""
    r"""|\s{1,65536}(?!\S)|\s"""
)
CHAR_PATTERN = r"(?s:.)"
# OpenAI serves GPT-2's ranks from its own site; this package on PyPI holds the same bytes.
_GPT2_RANKS = PypiSource(
    kind="pypi",
    name="gpt2",
    package="mlx-whisper==0.4.3",
    distribution="wheel",
    sha256="6b82b6597a994643a3e5496c7bc229a672e5ca308458455bfe276e76ae024489",
    members=("mlx_whisper/assets/gpt2.tiktoken",),
    licence="MIT",
)

_RANKS, _HUGGINGFACE = "ranks.tiktoken", "huggingface.json"
_HINT = "run `gpt tokenizer` again"

Ranks = dict[bytes, int]
Settings = LearnedTokenizer | TiktokenTokenizer | HuggingFaceTokenizer


def build_tokenizer(settings: Settings, train_documents: Iterable[str], output: Path) -> Encoding:
    """Train or load the tokenizer that params.yaml names and save it to the folder `output`.

    Raises `UserError` if the text is too small for `vocab_size`, what is to be loaded cannot be had, or a special token is there
    already.
    """
    if isinstance(settings, HuggingFaceTokenizer):
        _save_huggingface(settings, output)
        return load_tokenizer(output)
    match settings.kind:
        case "bpe":
            pattern, ranks = BPE_PATTERN, _train_bpe(train_documents, settings.vocab_size - 1)
            special = {END_OF_TEXT: len(ranks)}
        case "gpt2":
            pattern, ranks = GPT2_PATTERN, _gpt2_ranks()
            special = {END_OF_TEXT: len(ranks)}
        case "char":
            pattern, ranks = CHAR_PATTERN, _character_ranks(train_documents, settings.vocab_size - 1)
            special = {END_OF_TEXT: len(ranks)}
        case "tiktoken":
            from gpt.tokens.kinds.published import read_published

            pattern, ranks, special = read_published(settings.encoding)
            if END_OF_TEXT not in special:
                raise UserError(
                    f"params.yaml: tokenizer.encoding = {settings.encoding}: has no {END_OF_TEXT}, which ends documents"
                )
    for name in settings.special_tokens:
        if name in special or name.encode() in ranks:
            raise UserError(
                f"params.yaml: tokenizer.special_tokens: {name} is a token already; take it out, or give it another name"
            )
        special[name] = len(ranks) + len(special)
    save_tokenizer(settings.kind, pattern, ranks, special, output)
    return load_tokenizer(output)


def save_tokenizer(kind: str, pattern: str, ranks: Ranks, special_tokens: dict[str, int], output: Path) -> None:
    """Write a tokenizer to the folder `output`, whole or not at all."""
    with atomic_folder(output) as folder:
        with (folder / _RANKS).open("wb") as file:
            for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
                file.write(base64.b64encode(token) + b" %d\n" % rank)
        description = {
            "kind": kind,
            "pattern": pattern,
            "special_tokens": special_tokens,
            "vocab_size": len(ranks) + len(special_tokens),
            "ranks_sha256": sha256_file(folder / _RANKS),
        }
        write_json(folder / "tokenizer.json", description)


def _save_huggingface(settings: HuggingFaceTokenizer, output: Path) -> None:
    source = Path(settings.file)
    if not source.is_file():
        raise UserError(f"params.yaml: tokenizer.file = {source}: there is no such file")
    with located("params.yaml: tokenizer"):
        verify_file(source, settings.sha256, "tokenizer.sha256 in params.yaml", "if it is meant, write its hash there")
    save_huggingface(source, settings.end_of_text, settings.special_tokens, output)


def save_huggingface(source: Path, end_of_text: str, special_tokens: Sequence[str], output: Path) -> None:
    """Write Hugging Face's tokenizer.json `source` as a tokenizer of ours, with further special tokens, whole or not at all."""
    text = huggingface.add_special_tokens(source, end_of_text, special_tokens)
    with atomic_folder(output) as folder:
        (folder / _HUGGINGFACE).write_text(text, encoding="utf-8")
        description = {"kind": "huggingface", "end_of_text": end_of_text}
        description |= huggingface.describe(text, source, end_of_text)
        write_json(folder / "tokenizer.json", description | {"sha256": sha256_file(folder / _HUGGINGFACE)})


def extend_tokenizer(folder: Path, names: Sequence[str], output: Path, *, by_characters: bool = False) -> Encoding:
    """Write a tokenizer with further special tokens, whole or not at all: all ids that there were mean what they meant.

    `by_characters` lets each character of a text be tokens of its own. Raises `UserError` if a name is an ordinary token, or for
    characters of a tokenizer of Hugging Face.
    """
    encoding, description = load_tokenizer(folder), read_json(folder / "tokenizer.json", _HINT)
    new = [name for name in names if name not in encoding.special_tokens_set]
    if description["kind"] == "huggingface":
        if by_characters:
            raise UserError(
                f"{folder}: is a tokenizer of Hugging Face, which cuts text as it does; set task.cut to tokens"
            )
        save_huggingface(folder / _HUGGINGFACE, description["end_of_text"], new, output)
        return load_tokenizer(output)
    ranks = _parse_ranks(_read_verified(folder / _RANKS, description["ranks_sha256"]))
    if taken := [name for name in new if name.encode() in ranks]:
        raise UserError(f"{folder}: {taken[0]} is an ordinary token of it, and cannot be a special one")
    special = dict(description["special_tokens"])
    for name in new:
        special[name] = len(ranks) + len(special)
    pattern = CHAR_PATTERN if by_characters else description["pattern"]
    save_tokenizer(description["kind"], pattern, ranks, special, output)
    return load_tokenizer(output)


def load_tokenizer(folder: Path) -> Encoding:
    """Load a tokenizer from its folder; raise `UserError` if a file is missing or damaged."""
    description = read_json(folder / "tokenizer.json", _HINT, ("kind", "special_tokens", "vocab_size"))
    name = f"{description['kind']}-{tokenizer_id(folder)[:12]}"
    if description["kind"] == "huggingface":
        return _load_huggingface(name, description, folder)
    return _load_ranks(name, description, folder)


def _load_huggingface(name: str, description: dict[str, Any], folder: Path) -> HuggingFaceEncoding:
    file = folder / _HUGGINGFACE
    try:
        data = _read_verified(file, description["sha256"])
        encoding = HuggingFaceEncoding(name, data.decode(), file, description["end_of_text"])
    except (KeyError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / 'tokenizer.json'}: damaged ({error!r}); {_HINT}") from None
    if encoding.n_vocab != (size := description["vocab_size"]):
        raise UserError(
            f"{folder / 'tokenizer.json'}: has vocab_size {size}, {file} {encoding.n_vocab} tokens; {_HINT}"
        )
    return encoding


def _load_ranks(name: str, description: dict[str, Any], folder: Path) -> tiktoken.Encoding:
    try:
        data = _read_verified(folder / _RANKS, description["ranks_sha256"])
        return tiktoken.Encoding(
            name=name,
            pat_str=description["pattern"],
            mergeable_ranks=_parse_ranks(data),
            special_tokens=description["special_tokens"],
            explicit_n_vocab=description["vocab_size"],
        )
    except KeyError as error:
        raise UserError(f"{folder / 'tokenizer.json'}: has no {error.args[0]}; {_HINT}") from None
    except (AssertionError, TypeError, ValueError) as error:  # what tiktoken says of numbers that do not fit
        raise UserError(f"{folder / 'tokenizer.json'}: does not fit its ranks ({error}); {_HINT}") from None


def _read_verified(file: Path, digest: str) -> bytes:
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file}: not found; {_HINT}") from None
    if sha256_file(file) != digest:
        raise UserError(f"{file}: damaged (its SHA-256 is not the one in tokenizer.json); {_HINT}")
    return data


def tokenizer_id(folder: Path) -> str:
    """Return the hash that identifies a tokenizer: of its description, which holds the hash of its other file."""
    return sha256_json(read_json(folder / "tokenizer.json", "run `gpt tokenizer` first"))


def encode_document(encoding: Encoding, text: str) -> np.ndarray:
    """Return a document's tokens, <|endoftext|> at its end: (tokens,) of a type that holds the vocabulary.

    Special tokens are text here: nothing that a document says ends it.
    """
    # An array, where a list of Python's integers would take as long as encoding.
    tokens = encoding.encode_to_numpy(text, disallowed_special=())
    return np.append(tokens, np.array(encoding.eot_token, tokens.dtype))


def encode_with_sizes(encoding: Encoding, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the same, and how many UTF-8 bytes of the text each token stands for: (tokens,) uint32, which add up to all of them.

    <|endoftext|> has what no token before it stands for, mostly nothing.
    """
    if not isinstance(encoding, HuggingFaceEncoding):
        tokens = encode_document(encoding, text)
        return tokens, token_bytes(encoding)[tokens]
    ids, ends = encoding.encode_with_ends(text)
    tokens = np.array([*ids, encoding.eot_token], np.uint32)
    own = [encoding.decode_single_token_bytes(token) for token in ids]
    if b"".join(own) == text.encode():
        return tokens, np.array([*map(len, own), 0], np.uint32)
    characters = np.frombuffer(text.encode("utf-32-le"), "<u4")
    sizes = 1 + sum((characters >= bound).astype(np.uint32) for bound in (0x80, 0x800, 0x10000))
    places = np.concatenate([[0], np.cumsum(sizes)])  # of each character's first byte
    return tokens, np.diff(places[[0, *ends, len(characters)]]).astype(np.uint32)


@lru_cache(4)
def token_bytes(encoding: Encoding) -> np.ndarray:
    """Return how many UTF-8 bytes each token stands for: (n_vocab,) uint32, 0 for special tokens, which no text holds."""
    special = {encoding.encode_single_token(name) for name in encoding.special_tokens_set}
    sizes = (
        0 if token in special else len(encoding.decode_single_token_bytes(token)) for token in range(encoding.n_vocab)
    )
    return np.fromiter(sizes, np.uint32, encoding.n_vocab)


def check_tokenizer(tokens: Path, tokenizer: Path, hint: str) -> None:
    """Raise `UserError` if the tokens in the folder `tokens` were not made by the tokenizer in the folder `tokenizer`."""
    from gpt.tokens.shards import read_index  # not above: this module is packed with a model, which has no shards

    if read_index(tokens)["tokenizer_id"] != tokenizer_id(tokenizer):
        raise UserError(f"{tokens}: made by another tokenizer than {tokenizer}; {hint}")


def _train_bpe(documents: Iterable[str], size: int) -> Ranks:
    """Learn byte-level BPE merges (Sennrich et al. 2016; over bytes as in GPT-2); ties are broken the same way always."""
    import rustbpe

    bpe = rustbpe.Tokenizer()  # pyright: ignore[reportAttributeAccessIssue]: a compiled module without stubs
    bpe.train_from_iterator(iter(documents), size, pattern=BPE_PATTERN)
    # Two merges may spell the same bytes; tiktoken knows a token by its bytes, so the first keeps its place.
    tokens = dict.fromkeys(bytes(token) for token, _ in sorted(bpe.get_mergeable_ranks(), key=lambda item: item[1]))
    if len(tokens) < size:
        raise UserError(
            f"params.yaml: tokenizer.vocab_size = {size + 1}: the train split has text for only {len(tokens) + 1} entries;"
            " lower it, raise tokenizer.train_bytes or add documents"
        )
    return {token: rank for rank, token in enumerate(tokens)}


def _character_ranks(documents: Iterable[str], largest: int) -> Ranks:
    """Every byte, then every character of several bytes that the documents hold; others are spelled in bytes."""
    characters = set[str]()
    for document in documents:
        characters.update(document)
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += sorted(character.encode() for character in characters if len(character.encode()) > 1)
    if len(tokens) > largest:
        raise UserError(
            f"params.yaml: tokenizer.vocab_size = {largest + 1}: the train split needs {len(tokens) + 1} for its characters;"
            " raise it"
        )
    return {token: rank for rank, token in enumerate(tokens)}


def _gpt2_ranks() -> Ranks:
    from gpt.sources.fetch import bring

    with tempfile.TemporaryDirectory() as folder, located("params.yaml: tokenizer.kind = gpt2"):
        bring(_GPT2_RANKS, Path(folder))
        return _parse_ranks(Path(folder, "gpt2.tiktoken").read_bytes())


def _parse_ranks(data: bytes) -> Ranks:
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in data.splitlines())}
