"""How likely a model finds a text after another: the measure beneath every benchmark.

Logits are computed only where a continuation is predicted. What is asked twice is computed once, and so is a context that several
continuations follow: the keys and values of its tokens are kept, and each continuation is read after them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from gpt.evaluation.likelihood import measuring
from gpt.model.transformer import GPTModel
from gpt.tokens.encoding import Encoding

_TOKENS_PER_BATCH = 2048
"On a CPU, where a batch's activations stay in its cache: of 4,096 and more, passes take a fifth longer."
_TOKENS_PER_BATCH_GPU = 1 << 14
"Enough to be busy; keys and values of a batch bound the memory."
_LOGITS_AT_A_TIME = 1 << 24
_LEAST_SAVED = 0.3
"Share of a group's tokens that a common context must save: reading it apart costs a second pass of short rows."

Tokens = Sequence[int]


class Pair(NamedTuple):
    """A context and what follows it, as token ids; neither is empty."""

    context: list[int]
    continuation: list[int]


class Scores(NamedTuple):
    """By pair: of a part of the pairs' tokens, if several processes share them; then all processes' add up."""

    nats: np.ndarray
    "(pairs,) float64: negative log-likelihood of the continuation."
    misses: np.ndarray
    "(pairs,) float64: tokens of the continuation that are not the likeliest one. Greedy decoding writes it if there are none."

    def to_array(self) -> np.ndarray:
        """Return (2, pairs) float64, to add up over processes."""
        return np.stack(self)


class _Piece(NamedTuple):
    """What one pass predicts: `targets` after the last tokens of context + targets[:-1]."""

    context: tuple[int, ...]
    targets: tuple[int, ...]


def encode_pair(encoding: Encoding, context: str, continuation: str) -> Pair:
    """Encode both as lm-eval does for models of Hugging Face: together, then cut where the context alone would end.

    White space at the end of the context belongs to the continuation. A context begins with an <|endoftext|>, as documents do in
    training, prompts in generation, and texts in the tokenizer that `gpt export` writes. Special tokens in texts are ordinary
    text. Where the cut would leave nothing of the continuation, as its text went into the context's last token, each is encoded
    by itself. Raises `ValueError` for an empty continuation.
    """
    if not continuation:
        raise ValueError("a continuation must not be empty")
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    first = encoding.encode_ordinary(kept)
    rest = encoding.encode_ordinary(kept + continuation)[len(first) :]
    return Pair([encoding.eot_token, *first], rest or encoding.encode_ordinary(continuation))


def score_continuations(
    model: GPTModel,
    pairs: Sequence[Pair],
    *,
    autocast: torch.dtype | None = None,
    part: tuple[int, int] = (0, 1),
    give_up: Callable[[], bool] = lambda: False,
    share_contexts: bool = True,
) -> Scores:
    """Return what each continuation scores after its context.

    A context is cut from the left, so that block_size tokens are read at most. A continuation longer than that is read in
    windows that overlap by half. Of (rank, ranks) = `part` only rank's batches are computed. `give_up` is asked before each batch;
    once it says so, what is returned is of no use. Without `share_contexts` a batch is one pass, and all ranks make equally many,
    as a model that is split over them needs.
    """
    places: dict[_Piece, list[int]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        for piece in _pieces(pair, model.config.block_size):
            places[piece].append(number)
    pieces = list(places)
    totals = np.zeros((len(pieces), 2))
    size = _TOKENS_PER_BATCH if _device(model).type == "cpu" else _TOKENS_PER_BATCH_GPU
    batches = iter(_batches(_groups(pieces, share_contexts), pieces, size))
    rank, ranks = part
    with measuring(model), torch.autocast(_device(model).type, dtype=autocast, enabled=autocast is not None):
        while portion := list(islice(batches, ranks)):
            if give_up():
                break
            is_own = rank < len(portion)
            found = _score_batch(model, portion[rank if is_own else 0], pieces)
            if is_own:
                for number, values in found:
                    totals[number] += values
    result = np.zeros((2, len(pairs)))
    for values, numbers in zip(totals, places.values(), strict=True):
        for number in numbers:
            result[:, number] += values
    return Scores(*result)


def _pieces(pair: Pair, block_size: int) -> Iterator[_Piece]:
    if not pair.context or not pair.continuation:
        raise ValueError("a context and a continuation need a token at least")
    stream, length = [*pair.context, *pair.continuation], len(pair.continuation)
    if length <= block_size:
        stream = stream[-(block_size + 1) :]
        yield _Piece(tuple(stream[:-length]), tuple(stream[-length:]))
        return
    half = block_size // 2
    first = len(pair.context)
    while first < len(stream):
        start = max(0, first - (block_size - half))
        end = min(start + block_size + 1, len(stream))
        yield _Piece(tuple(stream[start:first]), tuple(stream[first:end]))
        first = end


def _groups(pieces: list[_Piece], share_contexts: bool) -> list[list[int]]:
    """Return the numbers of pieces that are computed together, as they have their context in common."""
    if not share_contexts:
        return [[number] for number in range(len(pieces))]
    same: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, piece in enumerate(pieces):
        same[piece.context].append(number)
    groups: list[list[int]] = []
    for context, numbers in same.items():
        alone = sum(len(context) + len(pieces[number].targets) - 1 for number in numbers)
        saved = (len(numbers) - 1) * len(context)
        groups += [numbers] if saved >= _LEAST_SAVED * alone else [[number] for number in numbers]
    return groups


def _batches(groups: list[list[int]], pieces: list[_Piece], size: int) -> Iterator[list[list[int]]]:
    """Yield groups of like length that have `size` tokens at most, if padded, the longest first."""

    def length(group: list[int]) -> int:
        return len(pieces[group[0]].context) + max(len(pieces[number].targets) for number in group) - 1

    # Groups of several pieces make two passes: apart from the others, and from each other by the length of their context.
    groups = sorted(groups, key=lambda group: (len(group) > 1, length(group)), reverse=True)
    held: list[list[int]] = []
    rows, longest = 0, 0
    for group in groups:
        rows, longest = rows + len(group), max(longest, length(group))
        if held and (rows * longest > size or (len(group) > 1) != (len(held[0]) > 1)):
            yield held
            held, rows, longest = [], len(group), length(group)
        held.append(group)
    if held:
        yield held


def _score_batch(model: GPTModel, batch: list[list[int]], pieces: list[_Piece]) -> list[tuple[int, np.ndarray]]:
    """Return (number, [nats, misses]) of the pieces of a batch, each once or twice: to be added."""
    if all(len(group) == 1 for group in batch):
        own = [pieces[number] for (number,) in batch]
        hidden = model.hidden(_padded([[*piece.context, *piece.targets[:-1]] for piece in own], _device(model)))
        starts = [len(piece.context) - 1 for piece in own]
        return _score_rows(
            model, hidden, [(n, start, piece) for (n,), start, piece in zip(batch, starts, own, strict=True)]
        )
    return _score_shared(model, batch, pieces)


def _score_shared(model: GPTModel, batch: list[list[int]], pieces: list[_Piece]) -> list[tuple[int, np.ndarray]]:
    """Read each group's context once: its last token predicts what all continuations begin with; read on with the others."""
    contexts = [pieces[group[0]].context for group in batch]
    cache = model.new_cache(len(batch), max(map(len, contexts)))
    hidden = model.hidden(_padded(contexts, _device(model)), cache)
    cache.advance([len(context) for context in contexts])
    owners = [row for row, group in enumerate(batch) for _ in group]
    numbers = [number for group in batch for number in group]
    ends = torch.tensor([len(context) - 1 for context in contexts], device=hidden.device)
    lasts = hidden[torch.arange(len(ends), device=hidden.device), ends][owners][:, None]  # (pieces, 1, C)
    firsts = [(number, 0, _Piece((), pieces[number].targets[:1])) for number in numbers]
    found = _score_rows(model, lasts, firsts)
    longer = [row for row, number in enumerate(numbers) if len(pieces[number].targets) > 1]
    for part in _fitting(longer, owners, numbers, contexts, pieces, model.config.block_size):
        rest = [pieces[numbers[row]].targets for row in part]
        read = cache.take([owners[row] for row in part], room=max(map(len, rest)) - 1)
        hidden = model.hidden(_padded([targets[:-1] for targets in rest], _device(model)), read)
        rows = [(numbers[row], 0, _Piece((), targets[1:])) for row, targets in zip(part, rest, strict=True)]
        found += _score_rows(model, hidden, rows)
    return found


def _fitting(
    rows: list[int],
    owners: list[int],
    numbers: list[int],
    contexts: list[tuple[int, ...]],
    pieces: list[_Piece],
    block_size: int,
) -> Iterator[list[int]]:
    """Yield the rows in parts in which the longest continuation, to which the others are padded, fits after the longest context."""
    held: list[int] = []
    context = continuation = 0
    for row in sorted(rows, key=lambda row: -len(contexts[owners[row]])):
        own = len(pieces[numbers[row]].targets) - 1
        if held and context + max(continuation, own) > block_size:
            yield held
            held, context, continuation = [], 0, 0
        held.append(row)
        context, continuation = max(context, len(contexts[owners[row]])), max(continuation, own)
    if held:
        yield held


def _score_rows(
    model: GPTModel, hidden: torch.Tensor, rows: list[tuple[int, int, _Piece]]
) -> list[tuple[int, np.ndarray]]:
    """Score the targets of row i of `hidden` (B, T, C), from its position on: rows[i] is (number, position, piece)."""
    counts = [len(piece.targets) for *_, piece in rows]
    of_row = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(counts))
    positions = torch.tensor([start + step for _, start, piece in rows for step in range(len(piece.targets))])
    targets = torch.tensor([target for *_, piece in rows for target in piece.targets], device=hidden.device)
    wanted = hidden[of_row.to(hidden.device), positions.to(hidden.device)]  # (N, C)
    nats, misses = [], []
    at_a_time = max(1, _LOGITS_AT_A_TIME // model.config.vocab_size)
    for some, own in zip(wanted.split(at_a_time), targets.split(at_a_time), strict=True):
        logits = model.logits(some).float()  # (n, vocab_size)
        nats.append(F.cross_entropy(logits, own, reduction="none"))
        misses.append(logits.argmax(-1) != own)
    values = torch.stack([torch.cat(nats).double(), torch.cat(misses).double()]).cpu()  # (2, N)
    sums = torch.zeros(2, len(rows), dtype=torch.float64).index_add_(1, of_row, values).T.numpy()
    return [(number, values) for (number, *_), values in zip(rows, sums, strict=True)]


def _padded(rows: Sequence[Tokens], device: torch.device) -> torch.Tensor:
    """Return token ids (B, T), shorter rows padded on the right, where the causal mask hides the padding."""
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
    return torch.from_numpy(tokens).to(device)


def _device(model: GPTModel) -> torch.device:
    return model.tok_emb.weight.device
