"""Tokenizers that were not learned here, and reserved tokens, as transformers loads them from an exported model."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import tiktoken
import torch
import transformers

from gpt.errors import UserError
from gpt.model.convert.huggingface import export_huggingface
from gpt.model.generation import generate_text, generate_texts
from gpt.model.sampling import Sampling
from gpt.model.storage import load_model
from gpt.params.tokens import Tokenizer
from gpt.tokens.tokenizer import END_OF_TEXT, build_tokenizer, load_tokenizer, save_huggingface, save_tokenizer
from tests.model.convert.test_huggingface import logits_of_ours, logits_of_theirs, make_model, random_text, some_tokens
from tests.tokens.kinds.made import TEXTS, byte_level, save, sentencepiece_bpe, unigram

NAMES = ("<|im_start|>", "<|im_end|>")
# cl100k_base's and o200k_base's of tiktoken 0.14.
CL100K = "|".join(
    [
        r"""'(?i:[sdmt]|ll|ve|re)""",
        r"""[^\r\n\p{L}\p{N}]?+\p{L}++""",
        r"""\p{N}{1,3}+""",
        r""" ?[^\s\p{L}\p{N}]++[\r\n]*+""",
        r"""\s++$""",
        r"""\s*[\r\n]""",
        r"""\s+(?!\S)""",
        r"""\s""",
    ]
)
O200K = "|".join(
    [
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""\p{N}{1,3}""",
        r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
        r"""\s*[\r\n]+""",
        r"""\s+(?!\S)""",
        r"""\s+""",
    ]
)


def huggingface(make: Callable[[], object], end_of_text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        folder.parent.mkdir(exist_ok=True)
        save_huggingface(save(make(), folder.parent / "given.json"), end_of_text, NAMES, folder)  # pyright: ignore[reportArgumentType]

    return write


def of_pattern(pattern: str) -> Callable[[Path], None]:
    """A BPE that was learned here, with the words that another pattern would cut."""

    def write(folder: Path) -> None:
        asked = Tokenizer(kind="bpe", vocab_size=380, train_bytes=1, special_tokens=())
        learned = build_tokenizer(asked, TEXTS, folder.parent / "learned")
        assert isinstance(learned, tiktoken.Encoding)
        special = {END_OF_TEXT: 379, "<|unused_380|>": 380, "<|im_start|>": 381, "<|im_end|>": 382}
        save_tokenizer("tiktoken", pattern, learned._mergeable_ranks, special, folder)

    return write


def learned(folder: Path) -> None:
    build_tokenizer(Tokenizer(kind="bpe", vocab_size=380, train_bytes=1, special_tokens=NAMES), TEXTS, folder)


TOKENIZERS = {
    "learned": learned,
    "byte-level": huggingface(byte_level, "<|endoftext|>"),
    "sentencepiece": huggingface(sentencepiece_bpe, "</s>"),
    "unigram": huggingface(unigram, "</s>"),
    "cl100k": of_pattern(CL100K),
    "o200k": of_pattern(O200K),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_an_exported_model_has_its_tokenizer_with_all_special_tokens(tmp_path: Path, kind: str) -> None:
    TOKENIZERS[kind](tmp_path / "tokenizer")
    model = make_model(tmp_path / "ours", tmp_path / "tokenizer", pad_vocab=128)
    export_huggingface(tmp_path / "ours", tmp_path / "theirs")
    tokens = some_tokens(model)
    torch.testing.assert_close(
        logits_of_theirs(tmp_path / "theirs", tokens), logits_of_ours(tmp_path / "ours", tokens), atol=1e-5, rtol=0.0
    )
    ours, theirs = (
        load_tokenizer(tmp_path / "tokenizer"),
        transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs"),
    )
    assert (len(theirs), theirs.eos_token_id, theirs.bos_token_id) == (ours.n_vocab, ours.eot_token, ours.eot_token)
    for name in NAMES:
        assert theirs.convert_tokens_to_ids(name) == ours.encode_single_token(name)
    pick = random.Random(0)
    for text in (*TEXTS, *(random_text(pick) for _ in range(500)), "x<|im_start|>y"):
        expected = ours.encode_ordinary(text)
        found = theirs(text)["input_ids"]
        if kind == "unigram" and "</s>" in text:
            assert ours.eot_token in found[1:], "their Unigram takes it for its own; ours never does"
            continue
        assert found == [ours.eot_token, *expected]


def test_a_pattern_that_their_library_cuts_otherwise_is_refused(tmp_path: Path) -> None:
    of_pattern(r"\p{L}{1}+|(?s:.)")(tmp_path / "tokenizer")  # letters; in Oniguruma words
    make_model(tmp_path / "ours", tmp_path / "tokenizer")
    with pytest.raises(UserError, match=r"tokenizer\.json: its pattern cuts .* otherwise in Hugging Face's library"):
        export_huggingface(tmp_path / "ours", tmp_path / "theirs")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_generation_streams_the_text_that_it_returns_at_once(tmp_path: Path, kind: str) -> None:
    TOKENIZERS[kind](tmp_path / "tokenizer")
    make_model(tmp_path / "ours", tmp_path / "tokenizer", pad_vocab=64)
    model, encoding = load_model(tmp_path / "ours")
    sampling = Sampling(40, seed=3)
    pieces = list(generate_text(model, encoding, "to be", sampling))
    assert "".join(pieces) == generate_texts(model, encoding, ["to be"], sampling, seeds=[3])[0]
    assert len(pieces) > 3
