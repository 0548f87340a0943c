"""Tokenizers to and from Hugging Face's `tokenizer.json`, with the same ids for every text.

tiktoken merges the pair whose bytes have the lowest rank, `tokenizers` the pair that is first in a list of merges. For the tokens
of a trained BPE the one follows from the other: a token's own merge is the last that encoding its bytes takes.
"""

import json
import re
import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from gpt.errors import UserError, located
from gpt.files import read_json, write_json
from gpt.tokens.encoding import CHAT_TEMPLATE, Encoding, chat_end
from gpt.tokens.kinds.huggingface import HuggingFaceEncoding, byte_alphabet
from gpt.tokens.tokenizer import (
    BPE_PATTERN,
    CHAR_PATTERN,
    END_OF_TEXT,
    GPT2_PATTERN,
    Ranks,
    load_tokenizer,
    save_tokenizer,
)

HINT = "name a folder with the files of a byte-level BPE as GPT-2's"
Merges = list[tuple[bytes, bytes]]


_LETTERS = byte_alphabet()
_BYTES = {letter: byte for byte, letter in _LETTERS.items()}


def _split_by(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, bytes_only]}


# How text is cut into pieces: kind, our pattern, theirs. Their regular expressions are Oniguruma's, where $ is the end of
# any line, and (?s:.) has the name (?m:.).
_PIECES: list[tuple[str, str, dict[str, Any]]] = [
    ("gpt2", GPT2_PATTERN, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}),
    ("bpe", BPE_PATTERN, _split_by(BPE_PATTERN.replace("$", r"\z"))),
    ("char", CHAR_PATTERN, _split_by("(?m:.)")),
]


# Words, contractions, numbers, marks, scripts, and white space of all kinds and lengths, at the end of a text too.
_PROBES = (
    "It's we'LL don't THEY'RE 1 12 123 1234 12345.678 a1b2 --- ... !!\n\n\n(x) [y] {z} naïve Ünïcödé",
    "  two   three    \t\ttabs\t x\n \n  \n\r\n\r\n end  ",
    "日本語のテキスト 한국어 العربية עברית हिन्दी ไทย e\u0301 🙂👩‍👩‍👧 ½ ² Ⅷ ǅ /path/to//file\n",
    "def f(x):\n    return x**2  # snake_case CamelCase HTTPServer\n\n\n",
    "".join(f"{chr(code)} {chr(code)}{chr(code)}a1\n" for code in (*range(33, 127), *range(160, 384), 0x2028, 0x3000)),
)


class _Found(NamedTuple):
    """What tiktoken needs, and the merges that follow from it, as a Hugging Face folder has them."""

    kind: str
    pattern: str
    ranks: Ranks
    special: dict[str, int]
    merges: Merges


def export_tokenizer(folder: Path, output: Path, block_size: int) -> None:
    """Write the tokenizer in `folder` to the existing folder `output`, as `AutoTokenizer.from_pretrained` loads it.

    Raises `UserError` if `tokenizers` could not give the same ids.
    """
    encoding = load_tokenizer(folder)
    description = read_json(folder / "tokenizer.json", HINT)
    if description["kind"] == "huggingface":
        end_of_text, tokenizer = description["end_of_text"], _object(folder / "huggingface.json")
        # Its own may put other tokens around a text: documents of the training data begin after the one that ends them.
        tokenizer["post_processor"] = _begins_with(end_of_text, encoding.eot_token)
    else:
        end_of_text, tokenizer = END_OF_TEXT, _from_ranks(encoding, description, folder)
    write_json(output / "tokenizer.json", tokenizer)
    end, is_chat = end_of_text, (folder / CHAT_TEMPLATE).is_file()
    if is_chat:
        shutil.copyfile(folder / CHAT_TEMPLATE, output / CHAT_TEMPLATE)
        end = chat_end((folder / CHAT_TEMPLATE).read_text(encoding="utf-8"), encoding) or end_of_text
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end_of_text,
        "eos_token": end,
        "pad_token": end_of_text,
        "add_bos_token": True,
        "padding_side": "left",  # new tokens follow the last one of every row
        "truncation_side": "left",  # of a longer prompt the model sees the end
        # <|endoftext|> spelled out in a text is text, as in our pipeline. A chat template writes special tokens as text.
        "split_special_tokens": not is_chat,
        "clean_up_tokenization_spaces": False,
        "model_max_length": block_size,
    }
    write_json(output / "tokenizer_config.json", settings)


def _from_ranks(encoding: Encoding, description: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what tokenizer.json says of a tokenizer that is a `tiktoken.Encoding`."""
    known = next((theirs for _, ours, theirs in _PIECES if ours == description["pattern"]), None)
    pieces = known or _split_by(_their_pattern(description["pattern"]))
    special: dict[str, int] = description["special_tokens"]
    ids = set(range(encoding.n_vocab)) - set(special.values())
    ranks = {encoding.decode_single_token_bytes(token): token for token in sorted(ids)}
    # A piece that is a token as a whole is taken as such by tiktoken: that is `ignore_merges`. Characters need nothing else.
    merges = [] if description["pattern"] == CHAR_PATTERN else _merges(ranks, folder)
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": True,
        "vocab": {_spell(token): rank for token, rank in ranks.items()} | special,
        "merges": [f"{_spell(left)} {_spell(right)}" for left, right in merges],
    }
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": text} | flags for text, number in special.items()],
        "normalizer": None,
        "pre_tokenizer": pieces,
        "post_processor": _begins_with(END_OF_TEXT, special[END_OF_TEXT]),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": model,
    }
    if known is None:
        _check_pieces(tokenizer, encoding, folder)
    return tokenizer


def _their_pattern(pattern: str) -> str:
    """Return a pattern of tiktoken's in Oniguruma's language: there {1,3}+ repeats, where tiktoken's means not to go back."""
    return re.sub(r"(\{\d+,\d*\})\+", r"\1", pattern).replace("$", r"\z").replace("(?s:", "(?m:")


def _check_pieces(tokenizer: dict[str, Any], encoding: Encoding, folder: Path) -> None:
    """Raise `UserError` if a pattern that nobody has compared cuts texts of all kinds otherwise over there."""
    with located(
        f"{folder / 'tokenizer.json'}: its pattern is none of Hugging Face's library, so it cannot be exported"
    ):
        theirs = HuggingFaceEncoding("", json.dumps(tokenizer), folder / "tokenizer.json", END_OF_TEXT)
    for text in _PROBES:
        if theirs.encode_ordinary(text) != encoding.encode_ordinary(text):
            raise UserError(
                f"{folder / 'tokenizer.json'}: its pattern cuts {text!r} otherwise in Hugging Face's library, so it cannot be"
                " exported; train with kind bpe"
            )


def _begins_with(token: str, number: int) -> dict[str, Any]:
    """Return the post-processor that puts a token before every text, as our generation does: documents began after it."""

    def text(name: str, kind: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": token, "type_id": kind}}, {"Sequence": {"id": name, "type_id": kind}}]

    return {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": [*text("A", 0), *text("B", 1)],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }


def import_tokenizer(source: Path, output: Path) -> None:
    """Write the tokenizer of a Hugging Face folder (tokenizer.json, or vocab.json and merges.txt) to `output` as one of ours.

    Raises `UserError` if a file is missing or damaged, or tiktoken could not give the same ids.
    """
    if (settings := source / "tokenizer_config.json").exists() and _object(settings).get("add_prefix_space"):
        raise UserError(f"{settings}: add_prefix_space is true; our tokenizers add nothing to a text")
    whole = (source / "tokenizer.json").exists() or not (source / "vocab.json").exists()
    file = source / ("tokenizer.json" if whole else "vocab.json")
    try:
        found = _read_tokenizer_json(file) if whole else _read_vocabulary_and_merges(source)
        ids = sorted([*found.ranks.values(), *found.special.values()])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{file}: not a byte-level BPE in Hugging Face's form ({reason}); {HINT}") from None
    if ids != list(range(len(ids))):
        raise UserError(f"{file}: its ids are not 0, 1, 2, … each once; {HINT}")
    if END_OF_TEXT not in found.special:
        raise UserError(f"{file}: has no special token {END_OF_TEXT}, which stands between our documents; {HINT}")
    if missing := [byte for byte in range(256) if bytes([byte]) not in found.ranks]:
        raise UserError(f"{file}: has no token for byte {missing[0]}, so not every text has ids; {HINT}")
    if found.merges != ([] if found.kind == "char" else _merges(found.ranks, file)):
        raise UserError(
            f"{file}: its merges are not in the order of their tokens' ids, which is all that tiktoken knows; {HINT}"
        )
    save_tokenizer(found.kind, found.pattern, found.ranks, found.special, output)


def _read_tokenizer_json(file: Path) -> _Found:
    """Read a tokenizer.json; refuse what changes the ids."""
    tokenizer = _object(file)
    model, added = tokenizer["model"], tokenizer.get("added_tokens") or []
    pieces = _comparable(tokenizer.get("pre_tokenizer"))
    kind, pattern = next(((kind, ours) for kind, ours, theirs in _PIECES if _comparable(theirs) == pieces), ("", ""))
    for key, value, usual in (
        ("model.type", model.get("type"), "BPE"),
        ("model.dropout", model.get("dropout"), 0.0),
        ("model.continuing_subword_prefix", model.get("continuing_subword_prefix"), ""),
        ("model.end_of_word_suffix", model.get("end_of_word_suffix"), ""),
        ("normalizer", tokenizer.get("normalizer"), None),
        ("pre_tokenizer", tokenizer.get("pre_tokenizer") if not kind else None, None),
        ("model.ignore_merges", kind != "char" or model.get("ignore_merges", False), True),
        ("added_tokens.special", all(token["special"] for token in added), True),
    ):
        if value not in (None, usual):
            raise UserError(f"{file}: {key} is {value}; tiktoken could not give the same ids")
    special = {token["content"]: token["id"] for token in added}
    vocabulary = {text: number for text, number in model["vocab"].items() if text not in special}
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    return _Found(kind, pattern, _parse_vocabulary(vocabulary), special, _parse_merges(pairs))


def _read_vocabulary_and_merges(source: Path) -> _Found:
    """Read vocab.json and merges.txt, the files of GPT-2, which imply its pre-tokenizer."""
    vocabulary = _object(source / "vocab.json")
    try:
        lines = (source / "merges.txt").read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(f"{source / 'merges.txt'}: not found; {HINT}") from None
    special = {text: vocabulary.pop(text) for text in (END_OF_TEXT,) if text in vocabulary}
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return _Found("gpt2", GPT2_PATTERN, _parse_vocabulary(vocabulary), special, _parse_merges(pairs))


def _parse_vocabulary(vocabulary: dict[str, int]) -> Ranks:
    return {bytes(_BYTES[letter] for letter in text): number for text, number in vocabulary.items()}


def _parse_merges(pairs: list[list[str]]) -> Merges:
    spelled = [tuple(bytes(_BYTES[letter] for letter in part) for part in pair) for pair in pairs]
    return [(left, right) for left, right in spelled]


def _comparable(pre_tokenizer: Any) -> Any:
    """A pre-tokenizer with its defaults and without what only moves offsets, so that equal ones are equal."""
    if not isinstance(pre_tokenizer, dict):
        return pre_tokenizer
    if pre_tokenizer.get("type") == "ByteLevel":
        return {"use_regex": True} | pre_tokenizer | {"trim_offsets": True}
    return {
        key: [_comparable(part) for part in value] if isinstance(value, list) else value
        for key, value in pre_tokenizer.items()
    }


def _merges(ranks: Mapping[bytes, int], where: Path) -> Merges:
    """Return the merges that make each token of several bytes from two others, in the order of ranks."""
    merges: Merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [token[place : place + 1] for place in range(len(token))]
        while len(parts) > 2:
            pairs = [ranks.get(left + right, rank) for left, right in pairwise(parts)]
            if (lowest := min(pairs)) >= rank:
                break
            place = pairs.index(lowest)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        if len(parts) > 2:
            raise UserError(f"{where}: token {rank} ({token!r}) is no pair of earlier ones, so no BPE made it; {HINT}")
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges


def _spell(token: bytes) -> str:
    return "".join(_LETTERS[byte] for byte in token)


def _object(file: Path) -> dict[str, Any]:
    value = read_json(file, HINT)
    if not isinstance(value, dict):
        raise UserError(f"{file}: not a JSON object; {HINT}")
    return value
