import random

import numpy as np
import pytest
import torch

from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.project import load_params
from gpt.registry.gate.overlap import count_shared
from gpt.registry.gate.samples import measure_degeneration, repetition, time_ratio
from gpt.tokens.tokenizer import load_tokenizer


def words(seed: int, count: int) -> list[str]:
    return random.Random(seed).choices([f"w{number}" for number in range(500)], k=count)


def test_passages_are_found_whatever_their_case_and_line_ends() -> None:
    text = words(0, 100)
    copied = " ".join(words(1, 50)) + "\n" + "\n".join(text[20:60]).upper() + "!"
    (counts,) = count_shared([" ".join(text)], [copied, " ".join(words(2, 300))], ngram=13)
    assert counts.tolist() == [int(20 <= place <= 60 - 13) for place in range(100 - 12)]


def test_a_passage_counts_once_for_each_document_that_holds_it() -> None:
    text = " ".join(words(0, 13))
    (counts,) = count_shared([text], [f"{text} and {text}", text, "nothing"], ngram=13)
    assert counts.tolist() == [2]


def test_a_short_text_is_found_as_a_whole_only() -> None:
    counts = count_shared(["to be or not", "", "to be"], ["To be, or not!", "to be or not to be that is"], ngram=13)
    assert [each.tolist() for each in counts] == [[1], [], [0]]


def test_repetition_is_the_share_of_4_grams_that_were_there_before() -> None:
    assert repetition(["a b c d e f"]) == 0
    assert repetition(["a a a a a a a"]) == pytest.approx(3 / 4)  # four 4-grams, one of them new
    assert repetition(["a b c", "", "?!"]) == 0
    assert repetition(["a b c d", "a b c d"]) == 0, "other texts are no repetition"


@pytest.fixture
def model_and_encoding(built):
    encoding = load_tokenizer(built / "models/tokenizer")
    settings = load_params(built / "params.yaml").section("model")
    model = GPTModel(GPTConfig(vocab_size=encoding.n_vocab, **settings))
    model.init_weights(seed=0)
    return model, encoding, load_params(built / "params.yaml")


def let_it_write(model: GPTModel, token: int) -> None:
    """Make one token the likeliest by far, whatever came before."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if name in ("tok_emb.weight", "final_norm.scale") else 0.0)
        assert model.out_head is not None
        model.out_head.weight[token] = 100.0


def test_a_model_that_ends_at_once_writes_empty_texts(model_and_encoding) -> None:
    model, encoding, params = model_and_encoding
    let_it_write(model, encoding.eot_token)
    found = measure_degeneration(model, encoding, params)
    assert (found.empty, found.unended, found.texts) == (1.0, 0.0, 4 * len(params.evaluate.prompts))


def test_a_model_that_never_ends_is_told(model_and_encoding) -> None:
    model, encoding, params = model_and_encoding
    let_it_write(model, encoding.encode_ordinary("o")[0])
    found = measure_degeneration(model, encoding, params)
    assert (found.empty, found.unended) == (0.0, 1.0)


def test_a_model_is_as_fast_as_itself_and_slower_with_more_work(model_and_encoding) -> None:
    model, encoding, _ = model_and_encoding
    slow = GPTModel(GPTConfig(**{**vars(model.config), "n_layer": 24}))
    slow.init_weights(seed=0)
    assert time_ratio((slow, encoding), (model, encoding)) > 2 > time_ratio((model, encoding), (model, encoding))
    assert np.isfinite(time_ratio((model, encoding), (slow, encoding)))
