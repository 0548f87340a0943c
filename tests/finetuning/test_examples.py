import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.errors import UserError
from gpt.finetuning.data.encoded import shortened, split_conversation
from gpt.finetuning.data.examples import read_example
from gpt.finetuning.data.files import read_rows
from gpt.finetuning.data.prepare import read_lines, write_lines
from gpt.finetuning.data.selection import SPLITS, select
from gpt.params.finetuning import Data, load_recipe
from tests import ROOT


@pytest.fixture(scope="module")
def spam() -> Data:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return load_recipe("spam").data


def of(spam: Data, form: str, **change: Any) -> Data:
    return spam.model_copy(update={"form": form, "fields": {}, "labels": {}, "balance": False, **change})


HI = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
FORMS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("messages", {"messages": HI}, {"messages": HI}),
    ("messages", {"messages": HI, "tools": [{"name": "f"}]}, {"messages": HI, "tools": [{"name": "f"}]}),
    (
        "messages",
        {"messages": [{"role": "developer", "content": "be good"}, *HI]},
        {"messages": [{"role": "system", "content": "be good"}, *HI]},
    ),
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
                HI[1],
            ]
        },
        {"messages": HI},
    ),
    ("alpaca", {"instruction": "hi", "input": "", "output": "hello"}, {"messages": HI}),
    (
        "alpaca",
        {"instruction": "add", "input": "1 2", "output": "3"},
        {"messages": [{"role": "user", "content": "add\n\n1 2"}, {"role": "assistant", "content": "3"}]},
    ),
    ("prompt_completion", {"prompt": "hi", "completion": "hello"}, {"messages": HI}),
    ("prompt_completion", {"prompt": "hi", "completion": "hello", "task": "t"}, {"messages": HI, "task": "t"}),
    (
        "preference",
        {"prompt": "hi", "chosen": "hello", "rejected": "no"},
        {"messages": HI[:1], "chosen": "hello", "rejected": "no"},
    ),
    (
        "preference",
        {"chosen": HI, "rejected": [HI[0], {"role": "assistant", "content": "no"}]},
        {"messages": HI[:1], "chosen": "hello", "rejected": "no"},
    ),
    (
        "preference",
        {"prompt": HI[:1], "chosen": HI[1:], "rejected": [{"role": "assistant", "content": "no"}]},
        {"messages": HI[:1], "chosen": "hello", "rejected": "no"},
    ),
    ("text_label", {"text": "hi", "label": 1}, {"text": "hi", "label": "1"}),
]


@pytest.mark.parametrize(("form", "row", "expected"), FORMS)
def test_every_form_becomes_an_example(spam: Data, form: str, row: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(read_example(row, of(spam, form))) == [expected]


def test_a_call_of_a_tool_and_its_output_are_kept(spam: Data) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
    talk = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "3"},
        {"role": "assistant", "content": "three"},
    ]
    (example,) = read_example({"messages": talk}, of(spam, "messages"))
    assert example["messages"][1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": [1]}}}],
    }
    assert example["messages"][2] == {"role": "tool", "content": "3"}


def test_both_people_of_a_talk_answer(spam: Data) -> None:
    turns = [[{"text": "a "}, {"text": "b"}], [{"text": "c\nd"}], [{"text": "e"}], [{"text": " "}]]
    first, second = read_example({"messages": turns}, of(spam, "chitchat"))
    assert [(each["role"], each["content"]) for each in first["messages"]] == [("user", "a b"), ("assistant", "c d")]
    assert [(each["role"], each["content"]) for each in second["messages"]] == [("user", "c d"), ("assistant", "e")]
    assert first["group"] == second["group"]


@pytest.mark.parametrize(
    ("form", "row", "message"),
    [
        ("messages", {}, "has no field 'messages'"),
        ("messages", {"messages": []}, "has no field 'messages'"),
        ("messages", {"messages": ["hi"]}, "a message is str"),
        ("messages", {"messages": [{"role": "owl", "content": "hu"}]}, "has role 'owl'; known are system"),
        ("messages", {"messages": [{"role": "user", "content": 3}]}, "content is int"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "parts that are no text"),
        ("messages", {"messages": HI[:1]}, "has no answer of the assistant"),
        ("messages", {"messages": [*HI, {"role": "system", "content": "s"}]}, "not the first one"),
        (
            "messages",
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
            "no function with a name",
        ),
        ("alpaca", {"instruction": "hi"}, "has no field 'output' that is text"),
        ("prompt_completion", {"prompt": "hi", "completion": 3}, "has no field 'completion' that is text"),
        ("preference", {"prompt": "hi", "chosen": "a"}, "has no field 'rejected' that is text"),
        ("preference", {"chosen": HI, "rejected": HI[:1]}, "the same conversation but for"),
        ("text_label", {"text": "hi", "label": None}, "has no field 'label' that is the name or number of a class"),
        ("text_label", {"text": None, "label": 1}, "has no field 'text' that is text"),
    ],
)
def test_what_is_no_example_is_told(spam: Data, form: str, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        list(read_example(row, of(spam, form)))
    assert message in str(error.value)


def test_every_kind_of_file_is_read_with_the_place_of_each_row(tmp_path: Path) -> None:
    rows = [{"a": "1"}, {"a": "ü"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines + "\n", encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "c.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "d.json").write_text(json.dumps({"x": rows[0], "y": rows[1]}), encoding="utf-8")
    (tmp_path / "e.csv").write_text("a\n1\nü\n", encoding="utf-8-sig")
    (tmp_path / "f.tsv").write_text("a\n1\nü\n", encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "g.parquet")
    found = list(read_rows(tmp_path))
    assert [row for _, row in found] == rows * 7
    assert [place for place, _ in found] == [
        "a.jsonl, line 1", "a.jsonl, line 2", "b.jsonl.gz, line 1", "b.jsonl.gz, line 2", "c.json, entry 1", "c.json, entry 2",
        "d.json, entry x", "d.json, entry y", "e.csv, line 2", "e.csv, line 3", "f.tsv, line 2", "f.tsv, line 3",
        "g.parquet, row 1", "g.parquet, row 2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"hi", "a.txt: not a kind of file that holds examples"),
        ("a.jsonl", b'{"a": 1}\n{', "line 2: no JSON"),
        ("a.jsonl", b'{"a": 1}\n{', "a.jsonl, line 2: no JSON"),
        ("a.jsonl", b'{"a": "\\uD800"}', "a.jsonl, line 1: holds half a character"),
        ("a.jsonl", b"[1]\n", "a.jsonl, line 1: is list"),
        ("a.jsonl", b'{"a": "\xff"}\n', "a.jsonl: damaged, or not UTF-8"),
        ("a.json", b"3", "is neither a list of objects nor an object of objects"),
        ("a.json", b"[" * 100_000, "nested too deep"),
        ("a.csv", b"a,b\n1\n", "line 2: has another number of cells"),
        ("a.csv", b"a\n\xff\n", "a.csv: damaged, or not UTF-8"),
        ("a.jsonl.gz", b"no", "a.jsonl.gz: damaged"),
        ("a.parquet", b"no", "no Parquet"),
    ],
)
def test_what_is_no_file_of_examples_is_told(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        list(read_rows(tmp_path))
    assert message in str(error.value)


def test_a_text_with_odd_ends_of_lines_is_read_back_whole(tmp_path: Path) -> None:
    examples = [{"text": "a\u2028b\x85c\x0bd\ne\r\nf", "label": "x"}, {"text": "g", "label": "y"}]
    write_lines(tmp_path / "train.jsonl", examples)
    assert read_lines(tmp_path / "train.jsonl") == examples


TEXTS = [{"text": f"Text {number}!", "label": "ab"[number % 3 == 0]} for number in range(600)]


def test_splits_have_their_shares_and_more_examples_move_none(spam: Data) -> None:
    settings = of(spam, "text_label", validation_fraction=0.1, test_fraction=0.2)
    few, all_ = (select(TEXTS[:size], settings).splits for size in (300, 600))
    assert len(all_["test"]) / 600 == pytest.approx(0.2, abs=0.05)
    assert len(all_["validation"]) / 600 == pytest.approx(0.1, abs=0.04)
    for split in SPLITS:
        assert [example for example in all_[split] if example in TEXTS[:300]] == few[split]


@pytest.mark.parametrize(("kind", "left"), [("normalized", 2), ("exact", 3), ("none", 4)])
def test_what_asks_the_same_is_one(spam: Data, kind: str, left: int) -> None:
    texts = ["Call now", "call NOW!!", "Call now", "Call me"]
    found = select(({"text": text, "label": "a"} for text in texts), of(spam, "text_label", deduplicate=kind))
    assert sum(map(len, found.splits.values())) == left
    assert found.left_out["duplicate"] == 4 - left


def test_balanced_classes_are_of_one_size_and_limited_ones_too(spam: Data) -> None:
    found = select(TEXTS, of(spam, "text_label", balance=True))
    counts = [sum(example["label"] == label for split in found.splits.values() for example in split) for label in "ab"]
    assert counts == [200, 200]
    train = select(TEXTS, of(spam, "text_label", limit=50)).splits["train"]
    assert [sum(example["label"] == label for example in train) for label in "ab"] == [25, 25]
    repeated = select(TEXTS, of(spam, "text_label", limit=50, repeat={"b": 3})).splits["train"]
    assert [sum(example["label"] == label for example in repeated) for label in "ab"] == [25, 75]


def test_a_group_stays_together(spam: Data) -> None:
    examples = ({"text": f"{number}", "label": "a", "group": str(number % 40)} for number in range(400))
    found = select(examples, of(spam, "text_label", validation_fraction=0.3, test_fraction=0.3))
    groups = [{example["group"] for example in found.splits[split]} for split in SPLITS]
    assert all(groups) and not (groups[0] & groups[1] or groups[1] & groups[2] or groups[0] & groups[2])


def talk(size: int) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[number % 2], "content": str(number)} for number in range(size)]


@given(st.integers(1, 8), st.integers(2, 7), st.booleans())
@settings(max_examples=60)
def test_a_split_conversation_has_every_turn_once_and_its_system_message_always(
    exchanges: int, room: int, has_system: bool
) -> None:
    system = [{"role": "system", "content": "s"}] * has_system
    parts = split_conversation([*system, *talk(2 * exchanges)], lambda part: len(part) <= room)
    assert [message for part in parts for message in part[len(system) :]] == talk(2 * exchanges)
    assert all(part[: len(system)] == system and part[len(system)]["role"] == "user" for part in parts)
    assert all(len(part) <= max(room, 2 + has_system) for part in parts)


def test_of_a_long_conversation_the_oldest_turns_go_first() -> None:
    system = [{"role": "system", "content": "s"}]
    assert list(shortened([*system, *talk(6)])) == [[*system, *talk(6)[first:]] for first in (0, 2, 4)]
