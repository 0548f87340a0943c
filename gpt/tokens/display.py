"""What the model sees, as lines for people: training sequences and documents with the borders of their tokens.

Nothing here decodes a whole text: a token is shown by its own bytes, which may be a part of a character.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from gpt.params.project import Params
from gpt.tokens.batches import Batches
from gpt.tokens.encoding import Encoding
from gpt.tokens.shards import TokenReader

_BORDER = "│"
_END_OF_DOCUMENT = "──── end of document ────"


def describe_split(split: str, reader: TokenReader, encoding: Encoding) -> list[str]:
    """Return what there is to see: the tokenizer and the size of a split."""
    rate = f", {reader.tokens / reader.text_bytes:.3f} tokens per byte" if reader.text_bytes else ""
    return [
        f"tokenizer {encoding.name}: vocabulary of {encoding.n_vocab:,} tokens",
        f"{split}: {reader.tokens:,} tokens, {reader.documents:,} documents{rate}",
    ]


def show_batch(
    reader: TokenReader, encoding: Encoding, params: Params, step: int, count: int, *, ids: bool = False
) -> list[str]:
    """Return the first `count` sequences of global batch `step` (from 0), each a heading and its inputs, as training reads them.

    Raises `UserError` if the split is shorter than two windows.
    """
    size, length = params.train.batch_size, params.model.block_size
    batches = Batches(reader, length, size, params.base.seed, params.train.mixture)
    inputs, _ = batches.read(step, 0, min(count, size))
    lines = []
    stops = "" if params.train.attention_across_documents else "; attention stops at document boundaries"
    for number, (start, row) in enumerate(zip(batches.starts(step).tolist(), inputs.tolist(), strict=False), start=1):
        # An <|endoftext|> in the last place ends a document and begins none that could be seen.
        documents = 1 + row[:-1].count(reader.end_of_text)
        lines += [
            "",
            f"step {step}, sequence {number} of {size}: tokens {start:,} to {start + length - 1:,} of the stream"
            f"{_of_source(reader, start)}, {_count(documents, 'document')}{stops}",
            *show_tokens(row, encoding, ids=ids),
        ]
    return lines


def _of_source(reader: TokenReader, start: int) -> str:
    """Name the source that a position lies in, if there are several."""
    names = [name for name, span in reader.sources.items() if span.start <= start < span.start + span.tokens]
    return f" ({names[0]})" if names and len(reader.sources) > 1 else ""


def show_documents(
    reader: TokenReader, encoding: Encoding, count: int, length: int, *, ids: bool = False
) -> Iterator[str]:
    """Yield the first `count` documents of a split, each a heading and at most `length` tokens: a document may be a book."""
    for number, (start, end) in enumerate(islice(reader.document_spans(), count), start=1):
        yield ""
        yield f"document {number} of {reader.documents:,}: tokens {start:,} to {end - 1:,} of the stream"
        yield from show_tokens(reader.read(start, min(length, end - start)).tolist(), encoding, ids=ids)
        if end - start > length:
            yield f"… {_count(end - start - length, 'more token')}"


def show_tokens(tokens: Iterable[int], encoding: Encoding, *, ids: bool = False) -> Iterator[str]:
    """Yield the text of `tokens` with a border between any two, or with `ids` a line `id text` for each.

    The end of a document has a line of its own, a newline is ⏎ and, without `ids`, a new line.
    """
    if ids:
        width = len(str(encoding.n_vocab - 1))
        for token in tokens:
            text = _END_OF_DOCUMENT if token == encoding.eot_token else show_token(encoding, token)
            yield f"{token:>{width}} {text}"
        return
    pieces: list[str] = []
    for token in tokens:
        if token != encoding.eot_token:
            pieces.append(show_token(encoding, token, newline="⏎\n"))
            continue
        yield from _lines(pieces)
        yield _END_OF_DOCUMENT
        pieces = []
    yield from _lines(pieces)


def show_token(encoding: Encoding, token: int, newline: str = "⏎") -> str:
    r"""Return a token's text; bytes that are no UTF-8 by themselves, and what a terminal would hide or obey, as \xNN or \uNNNN."""
    text = encoding.decode_single_token_bytes(token).decode("utf-8", errors="backslashreplace")
    return "".join(
        newline if character == "\n" else character if character.isprintable() else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    # Beyond ASCII \xNN would look like a byte, and the character is several.
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _lines(pieces: list[str]) -> list[str]:
    text = _BORDER.join(pieces)
    return text.removesuffix("\n").split("\n") if text else []


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
