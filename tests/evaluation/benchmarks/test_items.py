from pathlib import Path

import pytest

from gpt.errors import UserError
from gpt.evaluation.benchmarks.items import Benchmark, read_benchmark
from tests.evaluation.benchmarks.made_up import make_items, write_items


def read(
    folder: Path, name: str = "quiz", *, limit: int = 0, shots: int = 0, touched: tuple[str, ...] = ()
) -> Benchmark:
    return read_benchmark(name, folder, limit=limit, num_fewshot=shots, touched=frozenset(touched))


def ids(benchmark: Benchmark) -> list[str]:
    return [item.id for item in benchmark.items]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_items(tmp_path, make_items("quiz", 40, 4))
    return tmp_path


def test_a_larger_limit_keeps_what_a_smaller_one_takes_whatever_the_order_of_the_file(folder: Path) -> None:
    taken = [set(ids(read(folder, limit=limit))) for limit in (5, 17, 40)]
    assert [len(each) for each in taken] == [5, 17, 40]
    assert taken[0] < taken[1] < taken[2]
    path = folder / "quiz.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert taken[0] != {f"quiz/validation/{number}" for number in range(5)}
    path.write_bytes(b"".join(reversed(lines)))
    assert set(ids(read(folder, limit=5))) == taken[0]
    assert len(ids(read(folder, limit=1000))) == 40


def test_the_test_split_is_scored_where_there_is_one_and_examples_are_of_the_other(folder: Path) -> None:
    write_items(folder, make_items("quiz", 10, 4, split="test"))
    benchmark = read(folder, shots=3)
    assert {item.split for item in benchmark.items} == {"test"}
    assert len(benchmark.items) == 10
    assert {item.split for item in benchmark.examples} == {"validation"}
    first, last = benchmark.requests()[0][0], benchmark.requests()[-1][0]
    assert first.startswith(benchmark.prefix)
    assert last.startswith(benchmark.prefix)
    assert benchmark.prefix.count("\n\n") >= 3


def test_examples_of_a_single_split_are_never_scored_and_stay_the_same_when_the_limit_grows(folder: Path) -> None:
    for limit in (10, 30):
        benchmark = read(folder, limit=limit, shots=5)
        assert not set(ids(benchmark)) & {item.id for item in benchmark.examples}
        assert benchmark.examples == read(folder, limit=1, shots=5).examples
    with pytest.raises(UserError, match="quiz has 2 items that are not scored, and num_fewshot is 5"):
        read(folder, limit=38, shots=5)


def test_without_a_limit_examples_of_a_single_split_are_taken_from_its_items_first(folder: Path) -> None:
    benchmark = read(folder, shots=3)
    assert len(benchmark.items) == 37
    assert benchmark.examples == read(folder, limit=1, shots=3).examples
    assert not set(ids(benchmark)) & {item.id for item in benchmark.examples}


def test_an_example_has_no_text_in_common_with_a_scored_item(tmp_path: Path) -> None:
    from dataclasses import replace

    items = make_items("tale", 30, 1)
    write_items(tmp_path, [replace(item, texts=(f"story {number % 3}",)) for number, item in enumerate(items)])
    benchmark = read(tmp_path, "tale", limit=1, shots=2)
    (story,) = benchmark.items[0].texts
    assert all(story not in item.texts for item in benchmark.examples)


def test_items_that_training_met_are_not_clean(folder: Path) -> None:
    benchmark = read(folder, touched=("quiz/validation/7",))
    assert [item.id for item, clean in zip(benchmark.items, benchmark.clean, strict=True) if not clean] == [
        "quiz/validation/7"
    ]


def test_a_benchmark_that_is_not_there_is_told(folder: Path) -> None:
    with pytest.raises(UserError, match=r"trivia\.jsonl: not found; run `gpt fetch`"):
        read(folder, "trivia")
