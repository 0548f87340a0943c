import math
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import tiktoken
from torch import nn

from gpt.corpus.documents import describe_documents
from gpt.errors import UserError
from gpt.evaluation import windows
from gpt.evaluation.held_out import encode, read_held_out, sum_of_hashes, take_tokens
from gpt.evaluation.likelihood import token_nats
from gpt.evaluation.passages import Scored, score_documents
from gpt.evaluation.scores import PASSAGE_BYTES
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.paths import DOCUMENTS
from gpt.processes.agreement import Share
from gpt.tokens.tokenizer import token_bytes
from tests.evaluation.test_likelihood import loud
from tests.model.test_transformer import CONFIG
from tests.processes.together import alone, together

TEXTS = {
    "a": "to be or not to be " * 400,
    "b": "ü – naïve 🙂 " * 500,
    "c": "x",
    "d": "a crown " * 256,  # 2,048 bytes
    "e": "y" * 2047 + "🙂" + "z" * 100,  # a character that begins in one passage and ends in the next
}


def encoding(*words: str) -> tiktoken.Encoding:
    """Bytes, and words as single tokens; <|endoftext|> is the last."""
    ranks = {bytes([value]): value for value in range(256)}
    for word in words:  # tiktoken merges pairs: every beginning of a word must be there
        for end in range(2, len(word.encode()) + 1):
            ranks.setdefault(word.encode()[:end], len(ranks))
    return tiktoken.Encoding(
        "test", pat_str=r" ?\w+|(?s:.)", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": len(ranks)}
    )


def records(texts: dict[str, str] = TEXTS) -> list[dict[str, str]]:
    return [{"id": name, "source": "news" if name == "c" else "plays", "text": text} for name, text in texts.items()]


def score(
    tokens: tiktoken.Encoding,
    order: list[str] | None = None,
    model: GPTModel | None = None,
    share: Share | None = None,
) -> Scored:
    model = model or loud(replace(CONFIG, vocab_size=tokens.n_vocab))
    texts = {name: TEXTS[name] for name in order or TEXTS}
    documents = [encode(record, tokens) for record in records(texts)]
    return score_documents(model, documents, tokens, "test", share=share)


@pytest.mark.parametrize("words", [(), ("be", " crown", "🙂")], ids=["bytes", "words"])
def test_passages_are_the_same_stretches_of_text_whatever_the_tokenizer(words: tuple[str, ...]) -> None:
    table = score(encoding(*words)).passages
    for name, text in TEXTS.items():
        inside = table.document == name
        size = len(text.encode())
        starts = list(range(0, size, PASSAGE_BYTES))
        assert table.start[inside].tolist() == starts
        assert table.bytes[inside].tolist() == [min(PASSAGE_BYTES, size - start) for start in starts]
        assert set(table.source[inside]) == {"news" if name == "c" else "plays"}
    assert set(table.split) == {"test"}


@pytest.mark.parametrize("words", [(), ("be", " crown", "🙂")], ids=["bytes", "words"])
def test_a_tokens_nats_belong_to_the_passage_of_its_first_byte(words: tuple[str, ...]) -> None:
    tokens = encoding(*words)
    model = loud(replace(CONFIG, vocab_size=tokens.n_vocab))
    table = score(tokens).passages
    for record in records():
        document = encode(record, tokens)
        (nats,) = token_nats(model, [document.tokens.astype(np.int64)], tokens.eot_token)
        expected = [0.0] * math.ceil(document.text_bytes / PASSAGE_BYTES)
        place = 0
        for token, value in zip(document.tokens.tolist(), nats, strict=True):
            is_end = token == tokens.eot_token
            expected[-1 if is_end else place // PASSAGE_BYTES] += float(value)
            place += 0 if is_end else len(tokens.decode_single_token_bytes(token))
        assert np.allclose(table.nats[table.document == document.id], expected, rtol=1e-5)


def test_passages_sources_and_positions_each_add_up_to_the_whole() -> None:
    scored = score(encoding("be", " crown"))
    figures = scored.figures()
    table = scored.passages
    bits = table.nats.sum() / math.log(2)
    assert figures["bytes"] == sum(len(text.encode()) for text in TEXTS.values()) == table.bytes.sum()
    assert figures["bits_per_byte"] == bits / figures["bytes"]
    assert figures["documents"] == 5
    for part in (figures["by_source"].values(), figures["by_position"]):
        assert sum(entry["tokens"] for entry in part) == figures["tokens"]
    sources = figures["by_source"]
    assert list(sources) == ["news", "plays"]
    assert (sources["news"]["bytes"], sources["news"]["tokens"], sources["news"]["documents"]) == (1, 2, 1)
    assert sum(entry["bits_per_byte"] * entry["bytes"] for entry in sources.values()) == pytest.approx(bits)
    positions = figures["by_position"]
    assert sum(entry["bits_per_token"] * entry["tokens"] for entry in positions) == pytest.approx(bits)
    assert [entry["first"] for entry in positions[1:]] == [entry["last"] + 1 for entry in positions[:-1]]
    assert (positions[0]["first"], positions[-1]["last"]) == (1, CONFIG.block_size)
    assert positions[0]["tokens"] == 5, "each document's first token is predicted from <|endoftext|> alone"


def test_the_order_of_documents_changes_nothing() -> None:
    tokens = encoding()
    first, second = score(tokens), score(tokens, ["e", "c", "a", "d", "b"])
    assert first.passages.document.tolist() == second.passages.document.tolist()
    assert np.allclose(first.passages.nats, second.passages.nats, rtol=1e-5)
    assert first.documents_sha256 == second.documents_sha256


def test_processes_that_share_documents_each_get_the_very_figures_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "TOKENS_PER_BATCH", 500)
    tokens = encoding()
    model = loud(replace(CONFIG, vocab_size=tokens.n_vocab))  # one for all: threads draw from one random generator
    whole = score(tokens, model=model)
    for scored in together(3, lambda share: score(tokens, model=model, share=share)):
        assert np.array_equal(scored.passages.nats, whole.passages.nats)
        assert scored.figures() == whole.figures()
    parts = [score(tokens, model=model, share=alone(rank, 3)).passages.nats.sum() for rank in range(3)]
    assert all(0 < part < 0.5 * whole.passages.nats.sum() for part in parts), "each computes a part of them"


def test_a_model_that_knows_nothing_needs_the_same_bits_at_every_position() -> None:
    tokens = encoding()
    model = GPTModel(replace(CONFIG, vocab_size=tokens.n_vocab))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    documents = [encode(record, tokens) for record in records()]
    figures = score_documents(model, documents, tokens, "test").figures()
    assert figures["loss"] == pytest.approx(math.log(257), rel=1e-6)
    for entry in figures["by_position"]:
        assert entry["bits_per_token"] == pytest.approx(math.log2(257), rel=1e-6)


@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 5, 16, 100])
def test_positions_are_told_for_any_block(block_size: int) -> None:
    tokens = encoding()
    model = loud(GPTConfig(tokens.n_vocab, 1, 1, 4, block_size))
    documents = [encode(record, tokens) for record in records({"a": TEXTS["a"]})]
    positions = score_documents(model, documents, tokens, "test").figures()["by_position"]
    assert [entry["first"] for entry in positions] == [1, *(entry["last"] + 1 for entry in positions[:-1])]
    assert positions[-1]["last"] == block_size


def test_a_model_whose_weights_are_no_numbers_is_told() -> None:
    tokens = encoding()
    model = loud(replace(CONFIG, vocab_size=tokens.n_vocab))
    for parameter in model.final_norm.parameters():
        nn.init.constant_(parameter, math.nan)
    with pytest.raises(UserError, match="test document a: the model's likelihood of it is not a finite number"):
        score_documents(model, [encode(record, tokens) for record in records()], tokens, "test")


def test_token_bytes_are_those_of_the_text() -> None:
    tokens = encoding(" crown", "🙂")
    sizes = token_bytes(tokens)
    for text in TEXTS.values():
        assert sizes[encode({"id": "", "source": "", "text": text}, tokens).tokens].sum() == len(text.encode())
    assert sizes[tokens.eot_token] == 0


def test_a_part_of_the_documents_is_the_same_in_any_order() -> None:
    tokens = encoding()
    random = Random(0)
    texts = {f"{number}": "x" * random.randint(1, 300) for number in range(60)}
    documents = records(texts)
    for max_tokens in (1, 300, 1000, 3000):
        found = set()
        for _ in range(20):
            random.shuffle(documents)
            taken = list(take_tokens(documents, tokens, max_tokens))
            found.add(tuple(document.id for document in taken))
            assert len(taken) == 1 or sum(len(document.tokens) for document in taken) <= max_tokens
        assert len(found) == 1
    assert len({document.id for document in take_tokens(documents, tokens, 10**9)}) == 60
    more = {document.id for document in take_tokens(documents, tokens, 3000)}
    assert {document.id for document in take_tokens(documents, tokens, 1000)} < more, "a larger part holds the smaller"


def test_the_documents_of_a_split_are_named_as_prepare_names_them(prepared_project: Path) -> None:
    folder = prepared_project / DOCUMENTS
    for split in ("validation", "test"):
        documents = list(read_held_out(folder, split, encoding()))
        described = describe_documents(folder)[split]
        assert sum_of_hashes(document.text_sha256 for document in documents) == described["sha256"]
        assert len(documents) == described["documents"]
        assert sum(document.text_bytes for document in documents) == described["bytes"]
