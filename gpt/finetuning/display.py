"""What fine-tuning sees, as lines for people: the examples of a step, token by token, and which tokens have a loss."""

from collections.abc import Iterator
from itertools import groupby

from gpt.finetuning.data.packing import shuffled
from gpt.finetuning.data.templates import Tokens
from gpt.finetuning.jobs.job import FineTuning
from gpt.tokens.display import show_token
from gpt.tokens.encoding import Encoding

_BORDER = "│"
_WITH_LOSS = ("\x1b[1;32m", "\x1b[0m")
"Bold and green; where there is no colour, brackets stand around it."


def show_batch(job: FineTuning, step: int, count: int, *, colour: bool, ids: bool = False) -> Iterator[str]:
    """Yield the first `count` examples of global batch `step` (from 0): of packed rows each sequence; with `ids` a token a line."""
    size = job.recipe.train.batch_size
    mark = _WITH_LOSS if colour else ("⟦", "⟧")
    yield f"tokenizer {job.encoding.name}: vocabulary of {job.encoding.n_vocab:,} tokens"
    yield f"train: {job.examples:,} {job.unit}, {size} a step; tokens with a loss are {mark[0]}marked{mark[1]}"
    for place, number in enumerate(shuffled(step, size, job.examples, job.recipe.seed).tolist()[:count], start=1):
        for heading, tokens in job.sequences(number):
            yield ""
            yield f"step {step}, {place} of {size}{heading}: {len(tokens)} tokens, {int(tokens.mask.sum())} with a loss"
            yield from show_marked(tokens, job.encoding, mark, ids=ids)


def show_marked(tokens: Tokens, encoding: Encoding, mark: tuple[str, str], *, ids: bool = False) -> Iterator[str]:
    """Yield a sequence's text with a border between any two tokens, `mark` around those with a loss."""
    before, after = mark
    pairs = list(zip(tokens.ids.tolist(), tokens.mask.tolist(), strict=True))
    if ids:
        width = len(str(encoding.n_vocab - 1))
        for token, has_loss in pairs:
            text = show_token(encoding, token)
            yield f"{token:>{width}} {f'{before}{text}{after}' if has_loss else text}"
        return
    runs = []
    for has_loss, run in groupby(pairs, key=lambda pair: pair[1]):
        text = _BORDER.join(show_token(encoding, token) for token, _ in run)
        runs.append(f"{before}{text}{after}" if has_loss else text)
    yield _BORDER.join(runs)
