"""Generated text that has degenerated: empty, repeating itself, never ending. And how long generation takes.

Prompts are those of `evaluate`, seeds are fixed: the same model gives the same figures.
"""

import statistics
import time
from dataclasses import dataclass

from gpt.corpus.words import ngram_hashes, split_words
from gpt.model.generation import generate_tokens
from gpt.model.sampling import Sampling
from gpt.model.transformer import GPTModel
from gpt.params.project import Params
from gpt.tokens.encoding import Encoding

_SEEDS = 4
"Texts for each prompt."
_NGRAM = 4
_ROUNDS = 7
_TIMED_TOKENS = 64


@dataclass(frozen=True)
class Degeneration:
    """Shares of generated texts; `repetition` is seq-rep-4 (Welleck et al. 2020), of words, over all texts."""

    empty: float
    repetition: float
    unended: float
    texts: int


def measure_degeneration(model: GPTModel, encoding: Encoding, params: Params) -> Degeneration:
    """Return how a model's texts look: some for each of evaluate.prompts, sampled as `gpt evaluate` samples."""
    settings = params.evaluate
    prompts = [prompt for prompt in settings.prompts for _ in range(_SEEDS)]
    sampling = Sampling(
        settings.max_new_tokens, temperature=settings.temperature, top_k=settings.top_k, seed=params.base.seed
    )
    starts = [[encoding.eot_token, *encoding.encode_ordinary(prompt)] for prompt in prompts]
    written: list[list[int]] = [[] for _ in prompts]
    ends = encoding.eot_token
    for step in generate_tokens(model, starts, sampling, ends=lambda _, token: token == ends):
        for row, token in step.items():
            written[row].append(token)
    ended = [tokens[-1] == ends for tokens in written]
    texts = [encoding.decode([token for token in tokens if token != ends]) for tokens in written]
    return Degeneration(
        empty=statistics.fmean(not text.strip() for text in texts),
        repetition=repetition(texts),
        unended=statistics.fmean(not end for end in ended),
        texts=len(texts),
    )


def repetition(texts: list[str]) -> float:
    """Return the share of 4-grams of words that stood in the same text before; 0 if there are none."""
    grams = [ngram_hashes(split_words(text), _NGRAM) for text in texts]
    total = sum(map(len, grams))
    return 1 - sum(len(set(each.tolist())) for each in grams) / total if total else 0.0


def time_ratio(candidate: tuple[GPTModel, Encoding], champion: tuple[GPTModel, Encoding]) -> float:
    """Return the candidate's seconds a token over the champion's, for one text at a time.

    They take turns, in changing order, and the median of the ratios counts: other work on the machine slows both.
    """
    pair = (candidate, champion)
    for each in pair:
        _seconds_a_token(*each)  # the first time is slower
    ratios = []
    for round_ in range(_ROUNDS):
        seconds = {place: _seconds_a_token(*pair[place]) for place in ((0, 1) if round_ % 2 else (1, 0))}
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def _seconds_a_token(model: GPTModel, encoding: Encoding) -> float:
    begin, count = time.perf_counter(), 0
    for step in generate_tokens(model, [[encoding.eot_token]], Sampling(_TIMED_TOKENS)):
        count += len(step)
    return (time.perf_counter() - begin) / count
