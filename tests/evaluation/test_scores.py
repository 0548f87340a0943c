from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.errors import UserError
from gpt.evaluation.scores import Items, Passages
from gpt.files import sha256_file


def strings(*values: str) -> np.ndarray:
    return np.array(values, object)


def passages() -> Passages:
    return Passages(
        split=strings("validation", "test", "test"),
        document=strings("a", "b", "ü"),
        source=strings("plays", "plays", "news"),
        start=np.array([0, 0, 2048]),
        bytes=np.array([2048, 7, 1]),
        nats=np.array([1000.5, 1e-300, 3.25]),
    )


def items(choices: list[int] | None = None) -> Items:
    """Items with so many choices each, the first of them right."""
    choices = [4, 1, 2] if choices is None else choices
    count, random = len(choices), np.random.default_rng(0)
    return Items(
        benchmark=strings(*("lambada" if number == 1 else "piqa" for number in choices)),
        id=strings(*(f"item/{number}" for number in range(count))),
        clean=np.arange(count) % 2 == 0,
        answer=np.zeros(count, np.int64),
        chance=np.array([1 / number if number > 1 else 0.0 for number in choices]),
        nats=[random.random(number) for number in choices],
        bytes=[random.integers(1, 99, number) for number in choices],
        greedy=np.arange(count) % 2 == 1,
    )


def assert_same(first: Any, second: Any) -> None:
    assert type(first) is type(second)
    for field in fields(first):
        ours, theirs = getattr(first, field.name), getattr(second, field.name)
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.asarray(a).dtype == np.asarray(b).dtype


@pytest.mark.parametrize("table", [passages(), items()], ids=["passages", "items"])
def test_what_is_written_is_read_again_to_the_last_bit(table: Passages | Items, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    table.write(path)
    assert_same(type(table).read(path), table)
    assert len(table) == 3


@given(st.lists(st.integers(1, 5), max_size=30))
@settings(deadline=None, max_examples=20)
def test_items_of_any_numbers_of_choices_come_back(
    tmp_path_factory: pytest.TempPathFactory, choices: list[int]
) -> None:
    path = tmp_path_factory.mktemp("items") / "items.parquet"
    items(choices).write(path)
    assert_same(Items.read(path), items(choices))


@pytest.mark.parametrize("table", [passages(), items()], ids=["passages", "items"])
def test_the_same_rows_are_the_same_bytes(table: Passages | Items, tmp_path: Path) -> None:
    hashes = []
    for name in ("first", "second"):
        table.write(tmp_path / name)
        hashes.append(sha256_file(tmp_path / name))
    assert hashes[0] == hashes[1]
    reread = type(table).read(tmp_path / "first")
    reread.write(tmp_path / "third")
    assert sha256_file(tmp_path / "third") == hashes[0]


def test_a_missing_or_damaged_table_is_told(tmp_path: Path) -> None:
    path = tmp_path / "passages.parquet"
    with pytest.raises(UserError, match=r"passages\.parquet: not found; run `gpt evaluate`"):
        Passages.read(path)
    passages().write(path)
    whole = path.read_bytes()
    for cut in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"not a readable Parquet file .*; run `gpt evaluate` again"):
            Passages.read(path)
    items().write(path)
    with pytest.raises(UserError, match=r"another table than Passages, whose columns are split \(string\)"):
        Passages.read(path)
    with pytest.raises(UserError, match="register it again"):
        Passages.read(tmp_path / "none", "register it again")


def test_a_changed_byte_is_told_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "passages.parquet"
    passages().write(path)
    whole = path.read_bytes()
    told = 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            assert_same(Passages.read(path), passages())
        except UserError:
            told += 1
    assert told > len(whole) / 6


def test_a_table_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    items().write(path)
    before = sha256_file(path)
    with pytest.raises(Exception, match="int64"):
        replace(items(), answer=strings("a", "b", "c")).write(path)
    assert sha256_file(path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["items.parquet"]


def test_parts_are_taken_by_name() -> None:
    assert passages().of_split("test").document.tolist() == ["b", "ü"]
    assert items([4, 1, 2]).of_benchmark("piqa").id.tolist() == ["item/0", "item/2"]
    assert [len(nats) for nats in items([4, 1, 2]).of_benchmark("piqa").nats] == [4, 2]


def test_an_item_is_right_as_lm_eval_counts_it() -> None:
    table = replace(
        items([3, 3, 2, 1, 1]),
        answer=np.array([2, 0, 1, 0, 0]),
        nats=[np.array(values) for values in ([9.0, 8.0, 7.0], [5.0, 4.0, 6.0], [1.0, 1.0], [3.0], [3.0])],
        bytes=[np.array(values) for values in ([9, 4, 1], [10, 4, 6], [1, 2], [7], [7])],
        greedy=np.array([False, True, False, True, False]),
    )
    # Equal choices count as the first, and an item with one choice is right where greedy decoding writes it.
    assert table.correct.tolist() == [True, False, False, True, False]
    assert table.correct_norm.tolist() == [False, True, True, True, False]
    assert table.answer_nats.tolist() == [7.0, 5.0, 1.0, 3.0, 3.0]
    assert table.answer_bytes.tolist() == [1, 10, 2, 7, 7]
