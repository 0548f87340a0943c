import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt.errors import UserError
from gpt.files import sha256_file, sha256_tree
from gpt.params.sources import LocalSource
from gpt.sources.benchmarks import build_benchmarks, check_benchmarks
from gpt.sources.items import Item, read_items

Row = dict[str, Any]
Answers = str | list[str]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A data/benchmarks that an earlier fetch left."""
    folder = tmp_path / "data" / "benchmarks"
    folder.mkdir(parents=True)
    (folder / "earlier.jsonl").write_text("earlier")
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder of a source."""
    return tmp_path / "source"


def local(path: Path, name: str = "mine") -> LocalSource:
    digest = sha256_tree(path) if path.is_dir() else sha256_file(path)
    return LocalSource(kind="local", name=name, path=str(path), sha256=digest, licence="CC0")


def items(output: Path, benchmark: str) -> list[Item]:
    return list(read_items(output / f"{benchmark}.jsonl"))


def fails(place: Path, output: Path) -> str:
    """Return the message of a build that fails; what was there before is untouched and nothing is left beside it."""
    before = sha256_tree(output)
    with pytest.raises(UserError, match=r"^params\.yaml: fetch\.benchmarks mine: ") as caught:
        build_benchmarks((local(place),), output)
    assert sha256_tree(output) == before
    assert list(output.parent.iterdir()) == [output]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# OLMES


def request(doc_id: int, doc: Row, label: int | list[str], contexts: Answers, continuations: list[str]) -> list[Row]:
    """The requests of one document, as OLMES writes them."""
    if isinstance(contexts, str):
        contexts = [contexts] * len(continuations)
    return [
        {
            "request_type": "loglikelihood",
            "doc": doc,
            "request": {"context": context, "continuation": continuation},
            "idx": index,
            "task_name": "made-up",
            "doc_id": doc_id,
            "native_id": doc.get("id", doc.get("ind")),
            "label": label,
        }
        for index, (context, continuation) in enumerate(zip(contexts, continuations, strict=True))
    ]


def scored(doc_id: int, doc: Row, context: str) -> list[Row]:
    """The requests of a document that holds its choices and the index of the right one."""
    return request(doc_id, doc, doc["gold"], context, [f" {choice}" for choice in doc["choices"]])


def write_olmes(folder: Path, rows: list[Row], *, split: str = "validation", shots: int = 0, name: str = "") -> Path:
    """Write a file of OLMES and its config into the folder of a benchmark's form."""
    folder.mkdir(parents=True)
    task = {
        "task_core": folder.parent.name,
        "task_name": name or folder.parent.name,
        "split": split,
        "num_shots": shots,
    }
    (folder / "config.json").write_text(json.dumps({"task_config": task}))
    with gzip.open(folder / "requests.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def hellaswag(doc_id: int = 0, gold: int = 1) -> list[Row]:
    doc = {"ind": 24, "query": "Baking: A cook opens the oven. She", "choices": ["sings.", "takes out a cake."]}
    return scored(doc_id, doc | {"gold": gold}, doc["query"])


def arc_easy(examples: str = "", number: int = 1) -> list[Row]:
    query = "Question: Which is a metal?\nAnswer:"
    doc = {"id": f"EXAM_{number}", "query": query, "choices": ["wood", "iron", "glass"], "gold": 1}
    return scored(number, doc, examples + query)


PIQA = {"goal": "To dry a cup", "sol1": "use a towel.", "sol2": "use a lake.", "query": "Goal: To dry a cup\nAnswer:"}
PIQA |= {"choices": [PIQA["sol1"], PIQA["sol2"]], "gold": 0, "label": 0}

WINOGRANDE = {"sentence": "The cup is not in the box as  _  is big.", "option1": "the cup", "option2": "the box"}
WINOGRANDE_CONTEXTS = ["The cup is not in the box as the cup", "The cup is not in the box as the box"]

SCIQ = {"question": "What is ice?", "choices": ["air", "sand", "water"], "correct_answer": "water", "gold": 2}

BOOLQ = {
    "query": "Cup -- A cup holds tea.\nQuestion: does a cup hold tea\nAnswer:",
    "choices": ["yes", "no"],
    "gold": 0,
}

LAMBADA = {"id": 7, "query": "She gave him the cup and he drank the", "choices": ["tea"], "answers_text": ["tea"]}

COQA_TURNS = [("Who drank?", "Ada"), ("What?", "tea"), ("Where?", "at home")]
COQA = {
    "id": "ab12_turn1",
    "story": "Ada drank tea at home.",
    "question": "What?",
    "choices": ["tea"],
    "answers": ["tea", "some tea"],
    "previous_qa": [{"question": question, "answer": answer} for question, answer in COQA_TURNS],
}
COQA_CONTEXT = "Below is a passage.\n\nPassage: Ada drank tea at home.\n\nQuestion: What?\nAnswer:"

# Of each benchmark: its requests, and of the item that becomes of them id, contexts, continuations, answer and texts.
FORMS: dict[str, tuple[list[Row], str, Answers, list[str], int, list[str]]] = {
    "hellaswag": (
        hellaswag(5),
        "5",  # not the native id, which is another item's too
        "Baking: A cook opens the oven. She",
        [" sings.", " takes out a cake."],
        1,
        ["Baking: A cook opens the oven. She sings.", "Baking: A cook opens the oven. She takes out a cake."],
    ),
    "piqa": (
        scored(3, PIQA, "Goal: To dry a cup\nAnswer:"),
        "3",
        "Goal: To dry a cup\nAnswer:",
        [" use a towel.", " use a lake."],
        0,
        ["To dry a cup use a towel.", "To dry a cup use a lake."],
    ),
    "arc_easy": (
        arc_easy(),
        "EXAM_1",
        "Question: Which is a metal?\nAnswer:",
        [" wood", " iron", " glass"],
        1,
        ["Which is a metal? wood", "Which is a metal? iron", "Which is a metal? glass"],
    ),
    "winogrande": (
        request(4, WINOGRANDE | {"answer": "1"}, 0, WINOGRANDE_CONTEXTS, [" is big."] * 2),
        "4",
        WINOGRANDE_CONTEXTS,
        [" is big."] * 2,
        0,
        ["The cup is not in the box as the cup is big.", "The cup is not in the box as the box is big."],
    ),
    "sciq": (
        scored(2, SCIQ | {"support": "Ice is cold."}, "Ice is cold.\nQuestion: What is ice?\nAnswer:"),
        "2",
        "Ice is cold.\nQuestion: What is ice?\nAnswer:",
        [" air", " sand", " water"],
        2,
        ["Ice is cold.", "What is ice? air", "What is ice? sand", "What is ice? water"],
    ),
    "boolq": (
        scored(0, BOOLQ, str(BOOLQ["query"])),
        "0",
        str(BOOLQ["query"]),
        [" yes", " no"],
        0,
        ["Cup -- A cup holds tea.", "does a cup hold tea"],
    ),
    "lambada": (
        request(7, LAMBADA, ["tea"], LAMBADA["query"], [" tea"]),
        "7",
        LAMBADA["query"],
        [" tea"],
        0,
        ["She gave him the cup and he drank the tea"],
    ),
    "coqa": (
        request(9, COQA, COQA["answers"], COQA_CONTEXT, [" tea"]),
        "ab12_turn1",
        COQA_CONTEXT,
        [" tea"],
        0,
        ["Ada drank tea at home.", "Who drank? Ada\nWhat? tea"],  # not the turns after it
    ),
}


@pytest.mark.parametrize("benchmark", FORMS)
def test_an_item_is_what_is_scored_and_its_own_words(place: Path, output: Path, benchmark: str) -> None:
    rows, native_id, contexts, continuations, answer, texts = FORMS[benchmark]
    write_olmes(place / benchmark / "rc_0shot", rows)
    write_olmes(place / "other" / "lambada" / "bpb_0shot", FORMS["lambada"][0], split="test")
    assert build_benchmarks((local(place),), output)[benchmark]["validation"] == 1
    item = items(output, benchmark)[0]
    assert (item.id, item.benchmark, item.split) == (f"{benchmark}/validation/{native_id}", benchmark, "validation")
    assert [choice.context for choice in item.choices] == (
        [contexts] * len(continuations) if isinstance(contexts, str) else contexts
    )
    assert [choice.continuation for choice in item.choices] == continuations
    assert (item.answer, list(item.texts)) == (answer, texts)


def test_the_second_option_of_winogrande_is_answer_1(place: Path, output: Path) -> None:
    rows = request(0, WINOGRANDE | {"answer": "2"}, 1, WINOGRANDE_CONTEXTS, [" is big."] * 2)
    write_olmes(place / "winogrande" / "rc_0shot", rows)
    build_benchmarks((local(place),), output)
    assert items(output, "winogrande")[0].answer == 1


def test_a_sciq_item_without_support_has_no_empty_text(place: Path, output: Path) -> None:
    write_olmes(place / "sciq" / "rc_0shot", scored(0, SCIQ | {"support": ""}, "Question: What is ice?\nAnswer:"))
    build_benchmarks((local(place),), output)
    assert items(output, "sciq")[0].texts == ("What is ice? air", "What is ice? sand", "What is ice? water")


def test_the_copies_without_context_are_no_items(place: Path, output: Path) -> None:
    """OLMES has every document a second time, from doc_id 1,000,000 on, with "Answer:" for its context."""
    rows = [*hellaswag(0), *hellaswag(1, gold=0)]
    copies = [
        row | {"doc_id": row["doc_id"] + 1_000_000, "request": row["request"] | {"context": "Answer:"}} for row in rows
    ]
    write_olmes(place / "hellaswag" / "rc_0shot", rows + copies)
    assert build_benchmarks((local(place),), output) == {"hellaswag": {"validation": 2}}
    assert [item.id for item in items(output, "hellaswag")] == ["hellaswag/validation/0", "hellaswag/validation/1"]
    assert "Answer:" not in (output / "hellaswag.jsonl").read_text()


def test_solved_examples_do_not_get_into_an_item(place: Path, output: Path) -> None:
    examples = "Question: Which is a solved one?\nAnswer: this\n\n"
    write_olmes(place / "arc_easy" / "val_rc_5shot", arc_easy(examples), shots=5)
    write_olmes(place / "arc_easy" / "test_rc_5shot", arc_easy(examples, number=2), split="test", shots=5)
    assert build_benchmarks((local(place),), output) == {"arc_easy": {"test": 1, "validation": 1}}
    assert "solved" not in (output / "arc_easy.jsonl").read_text()
    for item in items(output, "arc_easy"):
        assert {choice.context for choice in item.choices} == {"Question: Which is a metal?\nAnswer:"}


@pytest.mark.parametrize("benchmark", ["winogrande", "sciq"])
def test_solved_examples_that_cannot_be_taken_off_are_refused(place: Path, output: Path, benchmark: str) -> None:
    write_olmes(place / benchmark / "rc_5shot", FORMS[benchmark][0], shots=5)
    assert "take a 0shot form" in fails(place, output)


def test_choices_that_are_letters_are_refused(place: Path, output: Path) -> None:
    write_olmes(place / "piqa" / "mc_5shot", FORMS["piqa"][0], name="piqa:mc")
    assert "piqa/mc_5shot/requests.jsonl.gz: its choices are letters" in fails(place, output)


def test_a_benchmark_that_comes_alone_has_its_name(place: Path, output: Path) -> None:
    """Where all files of a source are in one folder, `bring` drops that folder."""
    folder = write_olmes(place / "piqa" / "rc_0shot", FORMS["piqa"][0])
    assert build_benchmarks((local(folder),), output) == {"piqa": {"validation": 1}}
    assert build_benchmarks((local(folder.parent),), output) == {"piqa": {"validation": 1}}


def test_a_benchmark_that_cannot_be_converted_is_named(place: Path, output: Path) -> None:
    write_olmes(place / "riddles" / "rc_0shot", FORMS["piqa"][0])
    assert "riddles of OLMES cannot be converted, only arc_easy, boolq" in fails(place, output)


def wrong(benchmark: str, **change: Any) -> tuple[str, list[Row]]:
    """A benchmark's requests with other values in their document, or `label`, `idx` and `doc_id` in themselves."""
    own = {key: change.pop(key) for key in ("label", "idx", "doc_id", "request") if key in change}
    return benchmark, [row | own | {"doc": row["doc"] | change} for row in FORMS[benchmark][0]]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (wrong("hellaswag", gold=0), "label = 1 is not the answer 0"),
        (wrong("hellaswag", label=0), "label = 0 is not the answer 1"),
        (wrong("hellaswag", gold=2, label=2), "answer = 2: must be below 2"),
        (wrong("hellaswag", idx=0), "not numbered"),
        (wrong("hellaswag", choices=["takes out a cake.", "sings."]), "not doc.choices"),
        (wrong("hellaswag", doc_id="a"), "invalid literal"),
        (wrong("hellaswag", request={"context": "a"}), "has no 'continuation'"),
        (wrong("piqa", sol1="use a lake.", sol2="use a towel."), "sol1 and sol2"),
        (wrong("arc_easy", query="Which is a metal?"), "'Question: '"),
        (wrong("winogrande", option1="the box", option2="the cup"), "option1 and option2"),
        (wrong("winogrande", answer="3"), "not in tuple"),
        (wrong("sciq", support="", correct_answer="sand"), "correct_answer"),
        (wrong("boolq", query="does a cup hold tea"), "'\\nAnswer:'"),
        (wrong("lambada", label=["cup"]), "label = ['cup']"),
        (wrong("coqa", question="Where?"), "turn 1 of previous_qa"),
        (wrong("coqa", story=3), "texts.0: "),
        (wrong("coqa", story=" "), "texts.0: "),
    ],
)
def test_requests_that_do_not_fit_each_other_are_refused(
    place: Path, output: Path, case: tuple[str, list[Row]], message: str
) -> None:
    benchmark, rows = case
    write_olmes(place / benchmark / "rc_0shot", rows)
    found = fails(place, output)
    assert f"{benchmark}/rc_0shot/requests.jsonl.gz: line 1: " in found
    assert message in found


def test_boolq_with_its_choices_the_other_way_round_is_refused(place: Path, output: Path) -> None:
    write_olmes(place / "boolq" / "rc_0shot", scored(0, BOOLQ | {"choices": ["no", "yes"]}, str(BOOLQ["query"])))
    assert "not yes and no" in fails(place, output)


def test_a_document_that_comes_twice_is_refused(place: Path, output: Path) -> None:
    write_olmes(place / "hellaswag" / "rc_0shot", [*hellaswag(0), *hellaswag(1), *hellaswag(0)])
    assert "line 5: id = 'hellaswag/validation/0'" in fails(place, output)


@pytest.mark.parametrize("position", [-8, -200])
def test_a_damaged_gzip_is_named(place: Path, output: Path, position: int) -> None:
    file = write_olmes(place / "hellaswag" / "rc_0shot", [*hellaswag(0), *hellaswag(1)]) / "requests.jsonl.gz"
    data = bytearray(file.read_bytes())
    data[position] ^= 255
    file.write_bytes(data)
    assert "hellaswag/rc_0shot/requests.jsonl.gz" in fails(place, output)


def test_a_gzip_that_ends_early_is_named(place: Path, output: Path) -> None:
    file = write_olmes(place / "hellaswag" / "rc_0shot", hellaswag(0)) / "requests.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-20])
    assert "damaged" in fails(place, output)


def test_a_line_that_inflates_without_end_is_not_read_whole(place: Path, output: Path) -> None:
    file = write_olmes(place / "hellaswag" / "rc_0shot", []) / "requests.jsonl.gz"
    with gzip.open(file, "wb") as writer:
        for _ in range(20):
            writer.write(b" " * (1 << 20))
    assert "line 1: is longer than" in fails(place, output)


@pytest.mark.parametrize("config", [None, "", "[]", '{"task_config": {"split": "test"}}', '{"task_config": null}'])
def test_a_file_without_its_config_is_refused(place: Path, output: Path, config: str | None) -> None:
    file = write_olmes(place / "hellaswag" / "rc_0shot", hellaswag(0)) / "config.json"
    file.unlink()
    if config is not None:
        file.write_text(config)
    assert "config.json" in fails(place, output)


# The common form


ITEM: Row = {
    "id": "quiz/test/1",
    "benchmark": "quiz",
    "split": "test",
    "choices": [{"context": "1 + 1 is", "continuation": " 2"}, {"context": "1 + 1 is", "continuation": " 3"}],
    "answer": 0,
    "texts": ["1 + 1 is 2", "1 + 1 is 3"],
}


def write_quiz(folder: Path, *items: Row, name: str = "quiz") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    return path


def test_a_file_in_the_common_form_comes_as_it_is(place: Path, output: Path) -> None:
    second = ITEM | {"id": "quiz/train/ü", "split": "train", "texts": ["Zwölf – “dozen”"]}
    path = write_quiz(place, ITEM, second)
    assert build_benchmarks((local(path),), output) == {"quiz": {"test": 1, "train": 1}}
    assert [json.loads(line) for line in (output / "quiz.jsonl").read_text("utf-8").splitlines()] == [ITEM, second]
    assert list((output / "quiz.jsonl").read_text("utf-8").partition(":")[0]) == list('{"id"')
    assert items(output, "quiz")[1].texts == ("Zwölf – “dozen”",)
    assert json.loads((output / "benchmarks.json").read_text()) == {
        "quiz": {
            "sources": ["mine"],
            "items": {"test": 1, "train": 1},
            "sha256": sha256_file(output / "quiz.jsonl"),
        }
    }
    assert {path.name for path in output.iterdir()} == {"quiz.jsonl", "benchmarks.json"}


def without(key: str) -> Row:
    return {name: value for name, value in ITEM.items() if name != key}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        *((json.dumps(without(key)), f"{key}: ") for key in ITEM),
        (json.dumps(ITEM | {"extra": 1}), "extra: "),
        (json.dumps(ITEM | {"id": 1}), "id: "),
        (json.dumps(ITEM | {"id": ""}), "id: "),
        (json.dumps(ITEM | {"id": "quiz/test/0"}), "id = 'quiz/test/0'"),
        (json.dumps(ITEM | {"benchmark": "riddles"}), "benchmark = 'riddles': must be 'quiz'"),
        (json.dumps(ITEM | {"split": ""}), "split: "),
        (json.dumps(ITEM | {"choices": []}), "choices: "),
        (json.dumps(ITEM | {"choices": [" 2"]}), "choices.0"),
        (json.dumps(ITEM | {"choices": [{"context": "a"}, *ITEM["choices"]]}), "choices.0.continuation: "),
        (json.dumps(ITEM | {"choices": [{"context": "a", "continuation": ""}]}), "choices.0.continuation: "),
        (json.dumps(ITEM | {"choices": [{"context": "a", "continuation": "b", "c": 1}]}), "choices.0.c: "),
        (json.dumps(ITEM | {"answer": 2}), "answer = 2: must be below 2"),
        (json.dumps(ITEM | {"answer": -1}), "answer: "),
        (json.dumps(ITEM | {"answer": "0"}), "answer: "),
        (json.dumps(ITEM | {"answer": True}), "answer: "),
        (json.dumps(ITEM | {"answer": 0.0}), "answer: "),
        (json.dumps(ITEM | {"texts": []}), "texts: "),
        (json.dumps(ITEM | {"texts": "1 + 1 is 2"}), "texts: "),
        (json.dumps(ITEM | {"texts": ["a", " \n"]}), "texts.1: "),
        (json.dumps([ITEM]), "input should be an object"),
        (json.dumps(ITEM)[:-5], "invalid JSON: "),
        (json.dumps(ITEM | {"id": "\ud800"}), "invalid JSON: "),
        ("", "invalid JSON: "),
    ],
)
def test_a_fault_in_the_common_form_is_named_with_file_and_line(
    place: Path, output: Path, line: str, message: str
) -> None:
    path = write_quiz(place, ITEM | {"id": "quiz/test/0"})
    with path.open("a") as file:
        file.write(line + "\n")
    found = fails(place, output)
    assert found.startswith(f"params.yaml: fetch.benchmarks mine: quiz.jsonl: line 2: {message}")


def test_a_reader_names_the_line_that_is_no_item(tmp_path: Path) -> None:
    path = write_quiz(tmp_path, ITEM, ITEM | {"answer": 9})
    with pytest.raises(UserError, match=r"quiz\.jsonl: line 2: .*answer = 9"):
        list(read_items(path))
    with pytest.raises(UserError, match=r"none\.jsonl: not found; run `gpt fetch`"):
        list(read_items(tmp_path / "none.jsonl"))


def test_a_file_whose_name_params_could_not_give_is_refused(place: Path, output: Path) -> None:
    write_quiz(place, ITEM | {"benchmark": "my quiz"}, name="my quiz")
    assert "benchmark: must be letters" in fails(place, output)


@pytest.mark.parametrize("make", [lambda place: write_quiz(place), lambda place: (place / "a.txt").write_text("a")])
def test_a_source_without_items_is_refused(place: Path, output: Path, make: Callable[[Path], object]) -> None:
    place.mkdir()
    make(place)
    assert "holds n" in fails(place, output)


# All of them


def test_sources_may_share_a_benchmark_but_not_a_split(tmp_path: Path, output: Path) -> None:
    first = local(write_quiz(tmp_path / "a", ITEM), "first")
    other = local(write_quiz(tmp_path / "b", ITEM | {"split": "train", "id": "quiz/train/1"}), "other")
    same = local(write_quiz(tmp_path / "c", ITEM | {"id": "quiz/test/2"}), "same")
    assert build_benchmarks((first, other), output) == {"quiz": {"test": 1, "train": 1}}
    assert [item.id for item in items(output, "quiz")] == ["quiz/test/1", "quiz/train/1"]
    before = sha256_tree(output)
    with pytest.raises(UserError, match=r"benchmarks same: quiz\.jsonl: first/quiz\.jsonl brings quiz test too"):
        build_benchmarks((first, same), output)
    assert sha256_tree(output) == before


def test_two_forms_of_a_split_are_refused(place: Path, output: Path) -> None:
    write_olmes(place / "piqa" / "rc_0shot", FORMS["piqa"][0])
    write_olmes(place / "piqa" / "val_rc_5shot", FORMS["piqa"][0], shots=5)
    assert "piqa/rc_0shot/requests.jsonl.gz brings piqa validation too" in fails(place, output)


def test_one_bad_source_keeps_the_good_ones_out_too(tmp_path: Path, output: Path) -> None:
    good = local(write_quiz(tmp_path / "good", ITEM), "good")
    gone = LocalSource(kind="local", name="gone", path="none", sha256="0" * 64, licence="-")
    with pytest.raises(UserError, match=r"^params\.yaml: fetch\.benchmarks gone: path: none not found"):
        build_benchmarks((good, gone), output)
    assert [path.name for path in output.iterdir()] == ["earlier.jsonl"]
    assert list(output.parent.iterdir()) == [output]


def test_the_same_sources_give_the_same_bytes(tmp_path: Path, place: Path) -> None:
    for benchmark, (rows, *_) in FORMS.items():
        write_olmes(place / "olmes" / benchmark / "rc_0shot", rows)
    write_quiz(place, ITEM)
    assert len(build_benchmarks((local(place),), tmp_path / "one")) == 9
    build_benchmarks((local(place),), tmp_path / "two")
    assert sha256_tree(tmp_path / "one") == sha256_tree(tmp_path / "two")


def test_no_benchmarks_are_none(output: Path) -> None:
    assert build_benchmarks((), output) == {}
    assert [path.name for path in output.iterdir()] == ["benchmarks.json"]


def test_a_benchmark_that_the_model_is_not_judged_by_is_left_out(tmp_path: Path, place: Path) -> None:
    rows, *_ = FORMS["piqa"]
    write_quiz(place, ITEM)
    build_benchmarks((local(place),), tmp_path / "before", ("quiz",))
    write_olmes(place / "olmes" / "piqa" / "rc_0shot", rows)
    assert build_benchmarks((local(place),), tmp_path / "after", ("quiz",)) == {"quiz": {"test": 1}}
    assert sha256_tree(tmp_path / "before") == sha256_tree(tmp_path / "after")
    with pytest.raises(
        UserError,
        match=r"^params\.yaml: evaluate\.benchmarks: riddles is brought by no source of fetch\.benchmarks, which bring piqa, quiz;",
    ):
        build_benchmarks((local(place),), tmp_path / "after", ("quiz", "riddles"))
    assert build_benchmarks((local(place),), tmp_path / "none", ()) == {}
    assert sha256_tree(tmp_path / "before") == sha256_tree(tmp_path / "after"), "what was there stays"


def test_a_benchmark_to_judge_by_that_no_source_brings_is_named(place: Path, output: Path) -> None:
    with pytest.raises(UserError, match=r"benchmarks\.json: not found; run `gpt fetch`"):
        check_benchmarks(("quiz",), output)
    write_quiz(place, ITEM)
    build_benchmarks((local(place),), output)
    check_benchmarks(("quiz",), output)
    check_benchmarks((), output)
    with pytest.raises(
        UserError, match=r"^params\.yaml: evaluate\.benchmarks: riddles is not in .*, which holds quiz; run `gpt fetch"
    ):
        check_benchmarks(("quiz", "riddles"), output)
