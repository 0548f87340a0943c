"""Autoregressive generation: sampling one token after the other.

A row's tokens depend on the row alone: its prompt, its seed, the model. Which rows it shares a batch with and whether keys and
values are cached changes how fast they come, not which they are (up to the last bits of floating point).
"""

from collections.abc import Callable, Collection, Iterator, Sequence

import torch

from gpt.model.decoder import Decoder
from gpt.model.sampling import Sampling, choose_tokens
from gpt.model.transformer import GPTModel
from gpt.tokens.detokenizer import Detokenizer
from gpt.tokens.encoding import Encoding

_ROWS = 32
"Batch size of `generate_texts`: a larger one needs more memory for keys and values."

_TRANSPOSED_FROM = 100
"A single row of at least so many new tokens repays the time that transposing copies of the weights takes."


@torch.inference_mode()
def generate_tokens(
    model: GPTModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    seeds: Sequence[int] | None = None,
    ends: Callable[[int, int], bool] = lambda row, token: False,
    use_cache: bool = True,
) -> Iterator[dict[int, int]]:
    """Yield, step by step, the next token id of each row that goes on: {row: token}.

    Prompts hold at least one token id. `seeds` are the rows' own; without them they are seed, seed + 1, … A row is over after
    `max_new_tokens`, or where `ends(row, token)` says so of the token that it has just got; `sampling.stop` needs text and
    has no say here. A row that is over is no longer computed.

    The model sees the last block_size tokens of a longer prompt. When a row has block_size tokens and gets one more, its
    oldest half is dropped and the rest is read again: one prefill every block_size / 2 tokens, instead of one a token.
    """
    training = model.training
    model.eval()
    try:
        batch = _Batch(model, prompts, sampling, seeds, use_cache)
        for _ in range(sampling.max_new_tokens):
            tokens = batch.step()
            # Before the yield: a caller that has got a row's last token may never resume this generator.
            left = [slot for slot, pair in enumerate(zip(batch.rows, tokens, strict=True)) if not ends(*pair)]
            yield dict(zip(batch.rows, tokens, strict=True))
            if not left:
                break
            if len(left) < len(tokens):
                batch.keep(left)
    finally:
        model.train(training)


def generate_text(model: GPTModel, encoding: Encoding, prompt: str, sampling: Sampling) -> Iterator[str]:
    """Yield a completion of `prompt` piece by piece, in whole characters, until <|endoftext|>, a stop string or `max_new_tokens`.

    A piece that may be the beginning of a stop string is held back until that is decided.
    """
    return (piece for _, piece in continue_tokens(model, encoding, [_begun(encoding, prompt)], sampling))


def generate_texts(
    model: GPTModel,
    encoding: Encoding,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    seeds: Sequence[int] | None = None,
    at_each_step: Callable[[], None] = lambda: None,
) -> list[str]:
    """Return a completion of each prompt, as `generate_text` gives it with the row's seed; many rows at a time are faster.

    What `at_each_step` raises ends it: so a server can give up a request that nobody waits for any more.
    """
    seeds = [sampling.seed + row for row in range(len(prompts))] if seeds is None else seeds
    texts = [""] * len(prompts)
    for start in range(0, len(prompts), _ROWS):
        rows = slice(start, start + _ROWS)
        starts = [_begun(encoding, prompt) for prompt in prompts[rows]]
        for row, piece in continue_tokens(
            model, encoding, starts, sampling, seeds=seeds[rows], at_each_step=at_each_step
        ):
            texts[start + row] += piece
    return texts


def continue_tokens(
    model: GPTModel,
    encoding: Encoding,
    starts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    seeds: Sequence[int] | None = None,
    ends: Collection[int] | None = None,
    silent: Collection[int] = (),
    at_each_step: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, str]]:
    """Yield pieces of how rows of tokens go on, as they come: (row, piece). `ends` and `silent` are as `Detokenizer` has them."""
    writers = [Detokenizer(encoding, sampling.stop, ends=ends, silent=silent) for _ in starts]
    steps = generate_tokens(model, starts, sampling, seeds=seeds, ends=lambda row, token: writers[row].add(token))
    for step in steps:
        at_each_step()
        for row in step:
            if piece := writers[row].take():
                yield row, piece
    for row, writer in enumerate(writers):
        writer.finish()
        if piece := writer.take():
            yield row, piece


def _begun(encoding: Encoding, prompt: str) -> list[int]:
    """Return a prompt's tokens: every document of the training data begins after an <|endoftext|>."""
    return [encoding.eot_token, *encoding.encode_ordinary(prompt)]


class _Batch:
    """The rows that are not finished. Slot i of every list and tensor belongs to row `rows[i]`."""

    def __init__(
        self,
        model: GPTModel,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int] | None,
        use_cache: bool,
    ) -> None:
        if not all(prompts):
            raise ValueError("a prompt needs at least one token")
        self.rows = list(range(len(prompts)))
        self._model, self._sampling = model, sampling
        self._device, block_size = model.tok_emb.weight.device, model.config.block_size
        self._windows = [list(prompt)[-block_size:] for prompt in prompts]
        seeds = [sampling.seed + row for row in self.rows] if seeds is None else seeds
        # On the CPU whatever the device, so that a seed gives the same draws everywhere.
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._seen = None
        if sampling.repetition_penalty != 1:
            self._seen = torch.zeros(len(prompts), model.config.vocab_size, dtype=torch.bool, device=self._device)
            for slot, prompt in enumerate(prompts):
                self._seen[slot, list(prompt)] = True
        self._cache = self._decoder = None
        if use_cache:
            longest = max(map(len, self._windows)) + sampling.max_new_tokens
            self._cache = model.new_cache(len(prompts), min(block_size, longest))
            pays = len(prompts) == 1 and self._device.type == "cpu" and sampling.max_new_tokens >= _TRANSPOSED_FROM
            self._decoder = Decoder(model, transpose=pays)
            self._read(range(len(prompts)))

    def step(self) -> list[int]:
        """Return the next token of each row, and make it part of the row."""
        self._shift()
        chosen = choose_tokens(self._logits().float(), self._sampling, self._seen, self._generators)  # (B,)
        if self._seen is not None:
            self._seen.scatter_(1, chosen[:, None], True)
        tokens = chosen.tolist()
        for window, token in zip(self._windows, tokens, strict=True):
            window.append(token)
        return tokens

    def keep(self, slots: Sequence[int]) -> None:
        """Drop all rows but those in these slots."""
        self.rows = [self.rows[slot] for slot in slots]
        self._windows = [self._windows[slot] for slot in slots]
        self._generators = [self._generators[slot] for slot in slots]
        self._seen = None if self._seen is None else self._seen[slots]
        if self._cache is not None:
            self._cache.keep(slots)

    def _shift(self) -> None:
        """Drop the oldest half of the windows that have outgrown block_size."""
        block_size = self._model.config.block_size
        full = [slot for slot, window in enumerate(self._windows) if len(window) > block_size]
        for slot in full:
            self._windows[slot] = self._windows[slot][-max(1, block_size // 2) :]
        if full and self._cache is not None:
            self._read(full)

    def _logits(self) -> torch.Tensor:
        """Return logits (B, vocab_size) of what follows the rows' last tokens."""
        if self._cache is not None and self._decoder is not None:
            last = torch.tensor([window[-1] for window in self._windows], device=self._device)
            return self._decoder(last, self._cache)
        hidden = self._model.hidden(self._padded(self._windows))  # (B, T, C)
        ends = torch.tensor([len(window) - 1 for window in self._windows], device=self._device)
        return self._model.logits(hidden[torch.arange(len(ends), device=self._device), ends])

    def _read(self, slots: Sequence[int]) -> None:
        """Prefill the cache with the windows in these slots, without their last tokens, which the next step reads."""
        assert self._cache is not None
        windows = [self._windows[slot][:-1] for slot in slots]
        fresh = self._model.new_cache(len(windows), max(map(len, windows)))
        if fresh.capacity:
            self._model.hidden(self._padded(windows), fresh)
            fresh.advance([len(window) for window in windows])
        self._cache.put(slots, fresh)

    def _padded(self, windows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return token ids (B, T), shorter windows padded on the right, where the causal mask hides the padding."""
        longest = max(map(len, windows))
        return torch.tensor([[*window, *[0] * (longest - len(window))] for window in windows], device=self._device)
