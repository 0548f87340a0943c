"""Autoregressive generation: sampling one token after the other.

A row's tokens depend on the row alone: its prompt, its seed, the model. Which rows it shares a batch with and whether keys and
values are cached changes how fast they come, not which they are (up to the last bits of floating point).
"""

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from gpt.model.decoder import Decoder
from gpt.model.transformer import GPTModel
from gpt.tokens.encoding import Encoding

_ROWS = 32
"Batch size of `generate_texts`: a larger one needs more memory for keys and values."

_TRANSPOSED_FROM = 100
"A single row of at least so many new tokens repays the time that transposing copies of the weights takes."


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; raises `ValueError` for values out of range. Operations come in the order of the fields."""

    max_new_tokens: int
    repetition_penalty: float = 1.0
    "Divides positive and multiplies negative logits of tokens that the row holds, prompt included (Keskar et al. 2019); 1: none."
    temperature: float = 1.0
    "Divides the logits; 0 takes the likeliest token always."
    top_k: int = 0
    "Sample among the k likeliest tokens; 0: among all."
    top_p: float = 1.0
    "Sample among the fewest likeliest tokens that together have this probability (Holtzman et al. 2020); 1: among all."
    min_p: float = 0.0
    "Sample among tokens of at least this times the likeliest one's probability (Nguyen et al. 2024); 0: among all."
    stop: tuple[str, ...] = ()
    "Texts end before the first of these strings that is complete."
    seed: int = 0
    "Row i of a batch draws as a lone prompt with seed + i does."

    def __post_init__(self) -> None:
        allowed = {
            "max_new_tokens": self.max_new_tokens >= 1,
            "repetition_penalty": 0 < self.repetition_penalty < float("inf"),
            "temperature": 0 <= self.temperature < float("inf"),
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
            "stop": "" not in self.stop,
        }
        for name, holds in allowed.items():
            if not holds:
                raise ValueError(f"{name} = {getattr(self, name)!r} is out of range")


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
    return (piece for _, piece in _stream(model, encoding, [prompt], sampling, None))


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
        for row, piece in _stream(model, encoding, prompts[rows], sampling, seeds[rows], at_each_step):
            texts[start + row] += piece
    return texts


def _stream(
    model: GPTModel,
    encoding: Encoding,
    prompts: Sequence[str],
    sampling: Sampling,
    seeds: Sequence[int] | None,
    at_each_step: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, str]]:
    """Yield pieces of the rows' texts as they come: (row, piece)."""
    writers = [_Writer(encoding, sampling.stop) for _ in prompts]
    # Every document of the training data begins after an <|endoftext|>.
    starts = [[encoding.eot_token, *encoding.encode_ordinary(prompt)] for prompt in prompts]
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


class _Writer:
    """Decodes a row's tokens to text as they come; holds back incomplete UTF-8 and what may become a stop string."""

    def __init__(self, encoding: Encoding, stop: Sequence[str]) -> None:
        self.over = False
        self._encoding, self._stop = encoding, stop
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._ready, self._held = "", ""

    def add(self, token: int) -> bool:
        """Take the next token; return whether the text is over."""
        if token == self._encoding.eot_token:
            self.finish()
        else:
            self._extend(self._characters.decode(self._encoding.decode_single_token_bytes(token)))
        return self.over

    def finish(self) -> None:
        """End the text: what was held back belongs to it."""
        if not self.over:
            self._extend(self._characters.decode(b"", final=True))
        self._ready, self._held, self.over = self._ready + self._held, "", True

    def take(self) -> str:
        """Return the text that was completed since the last call."""
        piece, self._ready = self._ready, ""
        return piece

    def _extend(self, new: str) -> None:
        text = self._held + new
        # The stop string that is complete first; of two that end at the same place, the longer.
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stop if stop in text]
        if found:
            self._ready, self._held, self.over = self._ready + text[: min(found)[1]], "", True
            return
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        held = next(
            (n for n in range(min(longest, len(text)), 0, -1) if any(s.startswith(text[-n:]) for s in self._stop)), 0
        )
        certain = len(text) - held
        self._ready, self._held = self._ready + text[:certain], text[certain:]


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
        chosen = _choose(self._logits().float(), self._sampling, self._seen, self._generators)  # (B,)
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


def _choose(
    logits: torch.Tensor, sampling: Sampling, seen: torch.Tensor | None, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """Choose a token for each row from logits (B, vocab_size); `seen` marks the tokens that it holds. Returns (B,)."""
    if seen is not None:
        penalty = sampling.repetition_penalty
        logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    if sampling.temperature == 0:
        return logits.argmax(-1)
    # The maximum is subtracted and the temperature bounded, so that no quotient overflows.
    logits = (logits - logits.amax(-1, keepdim=True)) / min(max(sampling.temperature, 1e-6), 1e6)
    tokens = None
    if 0 < sampling.top_k < logits.shape[-1]:
        logits, tokens = logits.topk(sampling.top_k)
    elif sampling.top_p < 1:
        logits, tokens = logits.sort(descending=True, stable=True)
    probabilities = torch.softmax(logits, dim=-1)
    if sampling.top_p < 1:  # in descending order: a token stays if those before it add up to less
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    if sampling.min_p > 0:
        least = sampling.min_p * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    # Inverse transform sampling: a row draws one number a step from its own generator, and takes the token at which the
    # cumulative probability exceeds it.
    draws = torch.stack([torch.rand((), dtype=torch.float64, generator=generator) for generator in generators])
    sums = probabilities.cumsum(-1, dtype=torch.float64)
    draws = draws.to(sums.device)[:, None] * sums[:, -1:]
    chosen = torch.searchsorted(sums, draws, right=True).clamp_(max=sums.shape[-1] - 1)  # (B, 1)
    return (chosen if tokens is None else tokens.gather(-1, chosen))[:, 0]
