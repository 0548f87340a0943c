from pathlib import Path

import pytest
from tokenizers import normalizers

from gpt.params.tokens import Tokenizer
from gpt.tokens import roundtrip
from gpt.tokens.roundtrip import try_round_trip
from gpt.tokens.tokenizer import build_tokenizer, load_tokenizer, save_huggingface
from tests.tokens.kinds.made import save, sentencepiece_bpe, unigram


def test_what_a_tokenizer_loses_is_told_with_an_example(tmp_path: Path) -> None:
    save_huggingface(save(unigram(normalizers.NFKC()), tmp_path / "given.json"), "</s>", (), tmp_path / "tokenizer")
    found = try_round_trip(load_tokenizer(tmp_path / "tokenizer"), ["to be", "or the ﬁrst slings", "not"])
    assert (found.documents, found.lost) == (3, 1)
    assert str(found) == (
        "does not give back the bytes of 1 of 3 documents that were tried, as 'or the ﬁrst slings', which becomes"
        " 'or the first slings'; bits per byte are of the text all the same, but no model writes what its tokens cannot say"
    )


def test_a_space_before_the_text_is_no_loss(tmp_path: Path) -> None:
    save_huggingface(save(sentencepiece_bpe(), tmp_path / "given.json"), "</s>", (), tmp_path / "tokenizer")
    found = try_round_trip(load_tokenizer(tmp_path / "tokenizer"), ["to be", "naïve 🙂\n\tlines"])
    assert str(found) == "gives back the bytes of all 2 documents that were tried"


def test_tokenizers_that_are_learned_here_lose_nothing(tmp_path: Path) -> None:
    asked = Tokenizer(kind="char", vocab_size=300, train_bytes=1, special_tokens=())
    encoding = build_tokenizer(asked, ["abc"], tmp_path / "tokenizer")
    assert try_round_trip(encoding, ["abc", "ﬁ 🙂", ""]).lost == 0


def test_what_is_tried_is_measured_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Tokenizer(kind="char", vocab_size=300, train_bytes=1, special_tokens=())
    encoding = build_tokenizer(asked, ["abc"], tmp_path / "tokenizer")
    monkeypatch.setattr(roundtrip, "_MOST_BYTES", 100)
    assert try_round_trip(encoding, ["吾輩は猫である。名前"] * 10).documents == 4, "of 30 bytes each"
