"""Tokenizers as `tiktoken.Encoding`: byte-level BPE trained here, GPT-2's, or characters.

All three are lossless on any Unicode: every byte is in the vocabulary. On disk a tokenizer is two files,
`ranks.tiktoken` (tiktoken's own format) and `tokenizer.json` (kind, pattern, special tokens, hash of the ranks).
"""

import base64
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tiktoken

from gpt.errors import UserError, located
from gpt.files import atomic_folder, read_json, sha256_file, sha256_json, write_json
from gpt.params.sources import PypiSource
from gpt.params.tokens import Tokenizer as Settings

END_OF_TEXT = "<|endoftext|>"
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

Ranks = dict[bytes, int]


def build_tokenizer(settings: Settings, train_documents: Iterable[str], output: Path) -> tiktoken.Encoding:
    """Train or load the tokenizer that params.yaml names and save it to the folder `output`.

    Raises `UserError` if the text is too small for `vocab_size` or GPT-2's ranks cannot be had.
    """
    match settings.kind:
        case "bpe":
            pattern, ranks = BPE_PATTERN, _train_bpe(train_documents, settings.vocab_size - 1)
        case "gpt2":
            pattern, ranks = GPT2_PATTERN, _gpt2_ranks()
        case "char":
            pattern, ranks = CHAR_PATTERN, _character_ranks(train_documents, settings.vocab_size - 1)
    save_tokenizer(settings.kind, pattern, ranks, {END_OF_TEXT: len(ranks)}, output)
    return load_tokenizer(output)


def save_tokenizer(kind: str, pattern: str, ranks: Ranks, special_tokens: dict[str, int], output: Path) -> None:
    """Write a tokenizer to the folder `output`, whole or not at all."""
    with atomic_folder(output) as folder:
        with (folder / "ranks.tiktoken").open("wb") as file:
            for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
                file.write(base64.b64encode(token) + b" %d\n" % rank)
        description = {
            "kind": kind,
            "pattern": pattern,
            "special_tokens": special_tokens,
            "vocab_size": len(ranks) + len(special_tokens),
            "ranks_sha256": sha256_file(folder / "ranks.tiktoken"),
        }
        write_json(folder / "tokenizer.json", description)


def load_tokenizer(folder: Path) -> tiktoken.Encoding:
    """Load a tokenizer from its folder; raise `UserError` if a file is missing or damaged."""
    hint = "run `gpt tokenizer` again"
    keys = ("kind", "pattern", "special_tokens", "vocab_size", "ranks_sha256")
    description = read_json(folder / "tokenizer.json", hint, keys)
    ranks_file = folder / "ranks.tiktoken"
    try:
        data = ranks_file.read_bytes()
        if sha256_file(ranks_file) != description["ranks_sha256"]:
            raise UserError(f"{ranks_file}: damaged (its SHA-256 is not the one in tokenizer.json); {hint}")
        return tiktoken.Encoding(
            name=f"{description['kind']}-{tokenizer_id(folder)[:12]}",
            pat_str=description["pattern"],
            mergeable_ranks=_parse_ranks(data),
            special_tokens=description["special_tokens"],
            explicit_n_vocab=description["vocab_size"],
        )
    except FileNotFoundError:
        raise UserError(f"{ranks_file}: not found; {hint}") from None
    except (AssertionError, TypeError, ValueError) as error:  # what tiktoken says of numbers that do not fit
        raise UserError(f"{folder / 'tokenizer.json'}: does not fit its ranks ({error}); {hint}") from None


def tokenizer_id(folder: Path) -> str:
    """Return the hash that identifies a tokenizer: of its description, which holds the hash of its ranks."""
    return sha256_json(read_json(folder / "tokenizer.json", "run `gpt tokenizer` first"))


def encode_document(encoding: tiktoken.Encoding, text: str) -> np.ndarray:
    """Return a document's tokens, <|endoftext|> at its end: (tokens,) of a type that holds the vocabulary.

    Special tokens are text here: nothing that a document says ends it.
    """
    # An array, where a list of Python's integers would take as long as encoding.
    tokens = encoding.encode_to_numpy(text, disallowed_special=())
    return np.append(tokens, np.array(encoding.eot_token, tokens.dtype))


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
