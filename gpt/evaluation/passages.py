"""Nats of tokens added up: by passage of a document, by source, and by how much context they were predicted from."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gpt.errors import UserError
from gpt.evaluation.held_out import HeldOut, sum_of_hashes
from gpt.evaluation.likelihood import Likelihood, token_nats
from gpt.evaluation.scores import PASSAGE_BYTES, Passages
from gpt.evaluation.windows import context_lengths
from gpt.model.transformer import GPTModel
from gpt.processes.agreement import Share
from gpt.tokens.encoding import Encoding


@dataclass(frozen=True, eq=False)
class Scored:
    """What a model scored on documents."""

    passages: Passages
    "By document id, then by place in the document."
    tokens: Counter[str]
    "Predicted, by source."
    documents: Counter[str]
    "By source."
    documents_sha256: str
    "As documents.json names a set of documents."
    by_context: np.ndarray
    "(block_size + 1, 3) float64: nats, tokens and UTF-8 bytes of the tokens that were predicted from so many tokens."

    def figures(self) -> dict[str, Any]:
        """Return the figures of all documents, `by_source` and `by_position`."""
        sources = sorted(self.tokens)
        by_source = {source: self._figures(self.passages.source == source, [source]) for source in sources}
        whole = self._figures(np.ones(len(self.passages), np.bool_), sources)
        return whole | {
            "documents_sha256": self.documents_sha256,
            "by_source": by_source,
            "by_position": list(_position_bins(self.by_context)),
        }

    def _figures(self, inside: np.ndarray, sources: list[str]) -> dict[str, Any]:
        table = self.passages
        nats, text_bytes = float(table.nats[inside].sum()), int(table.bytes[inside].sum())
        tokens, documents = (sum(counts[source] for source in sources) for counts in (self.tokens, self.documents))
        return Likelihood(nats, tokens, text_bytes).to_dict() | {"documents": documents}


def score_documents(
    model: GPTModel,
    documents: Iterable[HeldOut],
    encoding: Encoding,
    split: str,
    *,
    autocast: torch.dtype | None = None,
    share: Share | None = None,
) -> Scored:
    """Return what the model scores on documents, at least one, in the tokens of `encoding`.

    Processes that share the work all get the whole. Raises `UserError` naming the first document whose likelihood is not finite.
    """
    block_size = model.config.block_size
    by_context = np.zeros((block_size + 1, 3))
    tokens, counts, digests = Counter[str](), Counter[str](), list[bytes]()
    tables: dict[str, list[tuple[str, np.ndarray, np.ndarray]]] = defaultdict(list)
    for document, nats in _with_nats(model, documents, encoding.eot_token, autocast, share):
        if not np.isfinite(nats).all():
            raise UserError(
                f"{split} document {document.id}: the model's likelihood of it is not a finite number; its weights are"
                " damaged or have diverged (run `gpt pretrain` again), or evaluate.precision cannot hold its numbers (use fp32)"
            )
        lengths = document.sizes.astype(np.int64)
        assert lengths.sum() == document.text_bytes, "the tokens of a text are its bytes"
        tables[document.id].append((document.source, *_add_up_passages(nats, lengths)))
        context = context_lengths(len(nats), block_size)
        for column, values in enumerate((nats, np.ones(len(nats)), lengths)):
            by_context[:, column] += np.bincount(context, values, block_size + 1)
        tokens[document.source] += len(nats)
        counts[document.source] += 1
        digests.append(document.text_sha256)
    return Scored(_table(split, tables), tokens, counts, sum_of_hashes(digests), by_context)


def _with_nats(
    model: GPTModel,
    documents: Iterable[HeldOut],
    end_of_text: int,
    autocast: torch.dtype | None,
    share: Share | None,
) -> Iterator[tuple[HeldOut, np.ndarray]]:
    waiting = deque[HeldOut]()  # those of which nats are not there yet

    def tokens() -> Iterator[np.ndarray]:
        for document in documents:
            waiting.append(document)
            yield document.tokens.astype(np.int64)

    for nats in token_nats(model, tokens(), end_of_text, autocast=autocast, share=share):
        yield waiting.popleft(), nats


def _add_up_passages(nats: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the UTF-8 bytes and nats of a document's passages, from its tokens' nats and UTF-8 bytes, in the order of the text.

    A token belongs to the passage in which its first byte lies, <|endoftext|> to the last.
    """
    ends = np.cumsum(lengths)
    text_bytes = int(ends[-1])
    count = max(1, -(-text_bytes // PASSAGE_BYTES))
    passage = np.minimum((ends - lengths) // PASSAGE_BYTES, count - 1)
    sizes = np.full(count, PASSAGE_BYTES, np.int64)
    sizes[-1] = text_bytes - (count - 1) * PASSAGE_BYTES
    return sizes, np.bincount(passage, nats, count)


def _table(split: str, tables: dict[str, list[tuple[str, np.ndarray, np.ndarray]]]) -> Passages:
    rows = [(name, *entry) for name in sorted(tables) for entry in tables[name]]
    counts = [len(sizes) for *_, sizes, _ in rows]

    def repeated(values: list[str]) -> np.ndarray:
        return np.repeat(np.array(values, object), counts)

    return Passages(
        split=np.full(sum(counts), split, object),
        document=repeated([name for name, *_ in rows]),
        source=repeated([source for _, source, *_ in rows]),
        start=np.concatenate([np.arange(count) * PASSAGE_BYTES for count in counts]),
        bytes=np.concatenate([sizes for *_, sizes, _ in rows]),
        nats=np.concatenate([nats for *_, nats in rows]),
    )


def _position_bins(by_context: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield bits per token and per byte of tokens predicted from `first` to `last` tokens, <|endoftext|> counted.

    Only a document's first tokens have less than half a block before them. They are few, so each bin there is twice as wide as the
    one before; the other half of the block is cut into four.
    """
    block_size = len(by_context) - 1
    half = block_size // 2
    edges = {0, *(2**power for power in range(half.bit_length()) if 2**power < half)}
    edges |= {half + quarter * (block_size - half) // 4 for quarter in range(5)}
    for low, high in zip(sorted(edges), sorted(edges)[1:], strict=False):
        nats, tokens, text_bytes = by_context[low + 1 : high + 1].sum(axis=0).tolist()
        if tokens:
            bits = nats / np.log(2)
            yield {
                "first": low + 1,
                "last": high,
                "tokens": int(tokens),
                "bits_per_token": float(bits / tokens),
                "bits_per_byte": float(bits / text_bytes) if text_bytes else None,
            }
