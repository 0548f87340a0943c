"""What a model scored, piece by piece: passages of held-out documents and items of benchmarks, as Parquet.

Every figure of an evaluation, and every comparison of two models on the same pieces, can be computed again from these two tables.
They hold likelihoods and sizes, no text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpt.errors import UserError
from gpt.files import atomic_file, not_found

PASSAGE_BYTES = 2048
PASSAGES_FILE, ITEMS_FILE = "passages.parquet", "items.parquet"
"In reports/scores."
_AGAIN = "run `gpt evaluate` again"


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length; a subclass names them and their types in Parquet."""

    SCHEMA: ClassVar[pa.Schema]

    def __post_init__(self) -> None:
        assert len({len(getattr(self, field.name)) for field in fields(self)}) == 1, "columns are equally long"

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def take(self, places: np.ndarray) -> Self:
        """Return the rows at these places, in their order."""
        columns = (getattr(self, field.name) for field in fields(self))
        return type(self)(*([c[place] for place in places] if isinstance(c, list) else c[places] for c in columns))

    @classmethod
    def join(cls, tables: Sequence[Self]) -> Self:
        """Return the rows of tables, at least one, one after the other."""
        columns = ([getattr(table, field.name) for table in tables] for field in fields(cls))
        return cls(*(list(chain(*c)) if isinstance(c[0], list) else np.concatenate(c) for c in columns))

    def write(self, path: Path) -> None:
        """Write the table as Parquet, whole or not at all: the same bytes for the same rows and version of pyarrow."""
        table = pa.table([pa.array(getattr(self, name), self.SCHEMA.field(name).type) for name in self.SCHEMA.names],
                         schema=self.SCHEMA)  # fmt: skip
        with atomic_file(path) as partial:
            pq.write_table(table, partial, compression="zstd", write_statistics=False, write_page_checksum=True)

    @classmethod
    def read(cls, path: Path, hint: str = _AGAIN) -> Self:
        """Read a table; raise `UserError` with `hint` (what to do) if the file is missing, damaged or another table."""
        if not path.is_file():
            raise not_found(path, hint)
        try:
            table = pq.ParquetFile(path, page_checksum_verification=True).read()
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: not a readable Parquet file ({reason}); {hint}") from None
        if not table.schema.equals(cls.SCHEMA):
            expected = ", ".join(f"{field.name} ({field.type})" for field in cls.SCHEMA)
            raise UserError(f"{path}: is another table than {cls.__name__}, whose columns are {expected}; {hint}")
        if empty := [name for name in table.column_names if table[name].null_count]:
            raise UserError(f"{path}: column {empty[0]} has rows without a value; {hint}")
        return cls(*(_column(table[name]) for name in table.column_names))


@dataclass(frozen=True, eq=False)
class Passages(Table):
    """Stretches of 2,048 bytes of held-out documents: at multiples of 2,048 of the UTF-8 text, whatever the tokenizer.

    A token's nats belong to the passage in which its first byte lies, those of <|endoftext|> to the document's last.
    """

    split: np.ndarray
    "(passages,) str: validation or test."
    document: np.ndarray
    "(passages,) str: its id in data/documents. A document's passages stand together, in the order of the text."
    source: np.ndarray
    "(passages,) str."
    start: np.ndarray
    "(passages,) int64: the passage's first byte in the document."
    bytes: np.ndarray
    "(passages,) int64: PASSAGE_BYTES, but for a document's last."
    nats: np.ndarray
    "(passages,) float64: negative log-likelihood."

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            ("split", pa.string()),
            ("document", pa.string()),
            ("source", pa.string()),
            ("start", pa.int64()),
            ("bytes", pa.int64()),
            ("nats", pa.float64()),
        ]
    )

    def of_split(self, split: str) -> "Passages":
        """Return the passages of a split."""
        return self.take(np.flatnonzero(self.split == split))


@dataclass(frozen=True, eq=False)
class Items(Table):
    """Items of benchmarks, with the likelihood of each choice."""

    benchmark: np.ndarray
    "(items,) str."
    id: np.ndarray
    "(items,) str: of no other item of its benchmark."
    clean: np.ndarray
    "(items,) bool: no training document had a passage of it."
    answer: np.ndarray
    "(items,) int64: index of the right choice."
    chance: np.ndarray
    "(items,) float64: accuracy of guessing."
    nats: list[np.ndarray]
    "By item (choices,) float64: negative log-likelihood of each choice's continuation."
    bytes: list[np.ndarray]
    "By item (choices,) int64: UTF-8 bytes of each continuation."
    greedy: np.ndarray
    "(items,) bool: the right answer is what greedy decoding would write."

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            ("benchmark", pa.string()),
            ("id", pa.string()),
            ("clean", pa.bool_()),
            ("answer", pa.int64()),
            ("chance", pa.float64()),
            ("nats", pa.list_(pa.float64())),
            ("bytes", pa.list_(pa.int64())),
            ("greedy", pa.bool_()),
        ]
    )

    def of_benchmark(self, name: str) -> "Items":
        """Return the items of a benchmark."""
        return self.take(np.flatnonzero(self.benchmark == name))

    @cached_property
    def correct(self) -> np.ndarray:
        """(items,) bool: the right choice is the likeliest; of an item with one choice, that greedy decoding writes it."""
        return self._is_chosen(self.nats)

    @cached_property
    def correct_norm(self) -> np.ndarray:
        """(items,) bool: the right choice is the likeliest per byte, so that long ones have no disadvantage."""
        return self._is_chosen([nats / sizes for nats, sizes in zip(self.nats, self.bytes, strict=True)])

    @cached_property
    def answer_nats(self) -> np.ndarray:
        """(items,) float64: negative log-likelihood of the right choice."""
        return np.array([nats[answer] for nats, answer in zip(self.nats, self.answer, strict=True)], np.float64)

    @cached_property
    def answer_bytes(self) -> np.ndarray:
        """(items,) int64: UTF-8 bytes of the right choice."""
        return np.array([sizes[answer] for sizes, answer in zip(self.bytes, self.answer, strict=True)], np.int64)

    def _is_chosen(self, surprise: list[np.ndarray]) -> np.ndarray:
        return np.array(
            [
                greedy if len(values) == 1 else int(values.argmin()) == answer
                for values, answer, greedy in zip(surprise, self.answer, self.greedy, strict=True)
            ],
            np.bool_,
        )


def _column(column: pa.ChunkedArray) -> Any:
    """Return a column as an array, one of lists as a list of arrays."""
    whole = column.combine_chunks()
    if not pa.types.is_list(whole.type):
        return whole.to_numpy(zero_copy_only=False)
    values, ends = whole.flatten().to_numpy(), np.cumsum(whole.value_lengths().to_numpy())
    return np.split(values, ends[:-1]) if len(ends) else []
