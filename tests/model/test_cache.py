"""Reading with a cache is reading without one, and shows no row its neighbours or its future."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.model.cache import KeyValueCache
from gpt.model.transformer import GPTConfig, GPTModel
from tests.model.test_transformer import CHOICES, CONFIG, describe, make_large, tokens

LENGTH = CONFIG.block_size


def read(model: GPTModel, x: torch.Tensor, cache: KeyValueCache) -> torch.Tensor:
    """Return logits of tokens that follow the ones in the cache, and put them there."""
    hidden = model.hidden(x, cache)
    cache.advance(x.shape[1])
    return model.logits(hidden)


def close(actual: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(actual, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", CHOICES, ids=describe)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=LENGTH), batch=st.integers(1, 3))
@settings(deadline=None, max_examples=5)
@torch.no_grad()
def test_chunks_with_a_cache_give_the_logits_of_the_whole(config: GPTConfig, sizes: list[int], batch: int) -> None:
    model = make_large(config)
    x = tokens(batch, LENGTH)
    cache, parts, start = model.new_cache(batch), [], 0
    for size in sizes:
        size = min(size, LENGTH - start)
        if size == 0:
            break
        parts.append(read(model, x[:, start : start + size], cache))
        start += size
        assert cache.lengths == [start] * batch
    close(torch.cat(parts, dim=1), model(x)[:, :start])


@pytest.mark.parametrize("config", CHOICES, ids=describe)
@torch.no_grad()
def test_a_prompt_and_single_tokens_give_the_logits_of_the_whole(config: GPTConfig) -> None:
    model = make_large(config)
    x = tokens(2, LENGTH)
    cache = model.new_cache(2)
    parts = [read(model, x[:, :4], cache)]
    parts += [read(model, x[:, position : position + 1], cache) for position in range(4, LENGTH)]
    assert [part.shape[1] for part in parts] == [4] + 8 * [1]  # nothing is computed again
    close(torch.cat(parts, dim=1), model(x))


@pytest.mark.parametrize("config", CHOICES, ids=describe)
@given(data=st.data())
@settings(deadline=None, max_examples=5)
@torch.no_grad()
def test_rows_of_different_length_read_as_if_alone(config: GPTConfig, data: st.DataObject) -> None:
    model = make_large(config)
    batch = data.draw(st.integers(2, 4))
    cache = model.new_cache(batch)
    rows = tokens(batch, LENGTH)
    expected = model(rows)
    for _ in range(4):
        room = LENGTH - max(cache.lengths)
        if room == 0:
            break
        T = data.draw(st.integers(1, min(4, room)))
        counts = data.draw(st.lists(st.integers(0, T), min_size=batch, max_size=batch))
        x = tokens(batch, T, seed=data.draw(st.integers(0, 99)))  # padding is any token
        starts = list(cache.lengths)
        for row, count in enumerate(counts):
            x[row, :count] = rows[row, starts[row] : starts[row] + count]
        logits = model.logits(model.hidden(x, cache))
        cache.advance(counts)
        for row, count in enumerate(counts):
            close(logits[row, :count], expected[row, starts[row] : starts[row] + count])
    assert torch.isfinite(torch.stack([layer.keys for layer in cache.layers])).all()


@pytest.mark.parametrize("config", CHOICES, ids=describe)
@pytest.mark.parametrize("lengths", [[5, 5], [5, 2]], ids=["rows alike", "rows of different length"])
@torch.no_grad()
def test_no_later_token_is_seen_with_a_cache(config: GPTConfig, lengths: list[int]) -> None:
    model = make_large(config)
    x = tokens(2, LENGTH)

    def continued(x: torch.Tensor) -> torch.Tensor:
        cache = model.new_cache(2)
        model.hidden(x[:, :5], cache)
        cache.advance(lengths)
        return model.logits(model.hidden(x[:, 5:], cache))

    before = continued(x)
    for position in range(7):
        changed = x.clone()
        changed[:, 5 + position] = (changed[:, 5 + position] + 1) % 50
        after = continued(changed)
        assert torch.equal(after[:, :position], before[:, :position])
        for seeing in range(position, 7):
            assert not torch.allclose(after[:, seeing], before[:, seeing])


@torch.no_grad()
def test_what_fills_a_row_up_is_never_seen() -> None:
    model = make_large(CONFIG)
    x = tokens(2, LENGTH)
    results = []
    for padding in (0, 49):
        prompt = x[:, :6].clone()
        prompt[1, 2:] = padding
        cache = model.new_cache(2)
        model.hidden(prompt, cache)
        cache.advance([6, 2])
        results.append(model.logits(model.hidden(x[:, 6:9], cache)))
    assert torch.equal(*results)


@torch.no_grad()
def test_more_tokens_than_fit_are_refused_and_the_cache_stays_as_it_is() -> None:
    model = make_large(CONFIG)
    x = tokens(2, LENGTH + 1)
    cache = model.new_cache(2)
    read(model, x[:, :8], cache)
    with pytest.raises(ValueError, match="8 \\+ 5 tokens do not fit into a cache of 12"):
        model.hidden(x[:, 8:], cache)
    close(read(model, x[:, 8:12], cache), model(x[:, :12])[:, 8:])
    with pytest.raises(ValueError, match="12 \\+ 1 tokens do not fit into a cache of 12"):
        model.hidden(x[:, 12:], cache)


@torch.no_grad()
def test_the_longest_row_decides_what_fits() -> None:
    model = make_large(CONFIG)
    cache = model.new_cache(2)
    model.hidden(tokens(2, 10), cache)
    cache.advance([1, 10])
    with pytest.raises(ValueError, match="10 \\+ 3 tokens"):
        model.hidden(tokens(2, 3), cache)


def test_every_row_must_say_how_far_it_came() -> None:
    with pytest.raises(ValueError, match="shorter"):
        make_large(CONFIG).new_cache(3).advance([1, 2])


def test_fewer_key_value_heads_make_a_smaller_cache() -> None:
    full, grouped = (GPTModel(replace(CONFIG, n_head=4, n_kv_head=heads)).new_cache(2) for heads in (0, 1))
    assert full.layers[0].keys.shape == (2, 4, 12, 4)
    assert grouped.layers[0].keys.shape == grouped.layers[0].values.shape == (2, 1, 12, 4)
    assert len(full.layers) == len(grouped.layers) == 2


@torch.no_grad()
def test_a_cache_has_the_models_precision() -> None:
    model = make_large(CONFIG).bfloat16()
    cache = model.new_cache(1)
    assert cache.layers[0].keys.dtype == torch.bfloat16
    assert read(model, tokens(1, 5), cache).dtype == torch.bfloat16


@pytest.mark.parametrize("config", [CHOICES[0], CHOICES[-1]], ids=describe)
@torch.no_grad()
def test_rows_that_come_and_go_change_nothing_for_those_that_stay(config: GPTConfig) -> None:
    model = make_large(config)
    rows = tokens(5, LENGTH)
    expected = model(rows)
    cache, newcomers = model.new_cache(4), model.new_cache(1, capacity=3)
    model.hidden(rows[:4, :5], cache)
    cache.advance([5, 2, 4, 1])
    read(model, rows[4:, :3], newcomers)
    cache.put([1], newcomers)  # in the place of row 1
    cache.keep([1, 2])
    assert cache.lengths == [3, 4]
    x = torch.stack((rows[4, 3:8], rows[2, 4:9]))
    close(read(model, x, cache), torch.stack((expected[4, 3:8], expected[2, 4:9])))
    with pytest.raises(ValueError, match="3 \\+ 1 tokens do not fit into a cache of 3"):
        model.hidden(rows[4:, 3:4], newcomers)


@pytest.mark.parametrize("config", [CHOICES[0], CHOICES[-1]], ids=describe)
@given(data=st.data())
@settings(deadline=None, max_examples=5)
@torch.no_grad()
def test_rows_that_are_taken_again_and_again_read_on_each_by_itself_and_leave_the_cache_as_it_was(
    config: GPTConfig, data: st.DataObject
) -> None:
    model = make_large(config)
    prompts = tokens(3, 6)
    counts = data.draw(st.lists(st.integers(1, 6), min_size=3, max_size=3))
    cache = model.new_cache(3)
    model.hidden(prompts, cache)
    cache.advance(counts)
    before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    rows = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=5))
    further = tokens(len(rows), 5, seed=data.draw(st.integers(0, 99)))
    taken = cache.take(rows, room=5)
    assert taken.lengths == [counts[row] for row in rows]
    assert taken.capacity == max(taken.lengths) + 5
    logits = torch.cat([read(model, further[:, :2], taken), read(model, further[:, 2:], taken)], dim=1)
    for place, row in enumerate(rows):
        alone = torch.cat([prompts[row, : counts[row]], further[place]])[None]
        close(logits[place], model(alone)[0, counts[row] :])
    assert cache.lengths == counts
    for layer, (keys, values) in zip(cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)
    with pytest.raises(ValueError, match=r"\+ 1 tokens do not fit into a cache"):
        model.hidden(further[:, :1], taken)
