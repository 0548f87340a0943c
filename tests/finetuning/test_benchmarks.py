"""No training example holds a passage of a benchmark; what is held out, shared by many or too short stays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt import paths
from gpt.errors import UserError
from gpt.files import read_json, sha256_file
from gpt.finetuning.data.benchmarks import Passages, read_passages
from gpt.finetuning.data.prepare import read_lines
from gpt.finetuning.finetune import make_data, write_inputs
from gpt.finetuning.places import Places
from gpt.params.finetuning import Decontaminate
from gpt.params.project import Params, load_params
from tests.finetuning.conftest import NAME, TALKS

ITEM = "The quick brown fox jumps over the lazy dog while seven wise owls watch from old trees"
PLACES = Places(NAME)


def write_benchmark(folder: Path, *texts: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "quiz.jsonl").open("w", encoding="utf-8") as file:
        for number, text in enumerate(texts):
            choice = {"context": "", "continuation": " yes"}
            about = {"id": f"quiz/test/{number}", "benchmark": "quiz", "split": "test", "answer": 0}
            file.write(json.dumps(about | {"choices": [choice], "texts": [text]}) + "\n")
    listing = {"quiz": {"sha256": sha256_file(folder / "quiz.jsonl")}}
    (folder / "benchmarks.json").write_text(json.dumps(listing), encoding="utf-8")


def judged_by(*names: str) -> Params:
    params = load_params()
    return params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"benchmarks": names})})


@pytest.fixture
def passages(tmp_path: Path) -> Passages:
    write_benchmark(tmp_path, "A short one", ITEM)
    return read_passages(Decontaminate(ngram=13, max_examples=2), ["quiz"], tmp_path)


def says(text: str) -> dict[str, Any]:
    return {"text": text, "label": "a"}


def test_a_passage_is_found_wherever_an_example_has_it(passages: Passages) -> None:
    shouted = ITEM.upper().replace(" ", " -- ")
    middle = " ".join(ITEM.split()[2:15])
    talk = {"messages": [{"role": "user", "content": "tell me"}, {"role": "assistant", "content": f"So: {middle}."}]}
    choice = {"messages": [{"role": "user", "content": "hi"}], "chosen": "hello", "rejected": shouted}
    other = says(ITEM.replace("brown", "red").replace("seven", "six"))
    found = passages.find([says("nothing"), talk, choice, other, says(" ".join(ITEM.split()[:12]))])
    assert found == {1: "quiz/test/1", 2: "quiz/test/1"}
    assert (len(passages.items), passages.short) == (2, 1)


def test_words_that_more_examples_share_are_no_passage(passages: Passages) -> None:
    assert set(passages.find([says(f"{number} {ITEM}") for number in range(2)])) == {0, 1}
    assert not passages.find([says(f"{number} {ITEM}") for number in range(3)])
    assert not passages.find([])


def test_training_examples_with_a_passage_are_left_out_and_shown(make_recipe: Callable[..., Path]) -> None:
    make_recipe("instruct", model={"block_size": 256})
    before = {split: read_lines(PLACES.data / f"{split}.jsonl") for split in ("train", "validation", "test")}
    (leaked, *rest), (held_out, *_) = before["train"], before["test"]
    rows = [
        {"messages": [talk["messages"][0], {"role": "assistant", "content": f"{ITEM}, they say"}]}
        if talk in (leaked, held_out)
        else talk
        for talk in TALKS
    ]
    make_recipe("instruct", folder="leaked", rows=rows, model={"block_size": 256})
    write_benchmark(paths.BENCHMARKS, ITEM, "short")
    report = make_data(NAME, judged_by("quiz"))
    assert read_lines(PLACES.data / "train.jsonl") == rest
    assert len(read_lines(PLACES.data / "test.jsonl")) == len(before["test"])
    assert report["left_out"] == {"in a benchmark": 1}
    assert report["benchmarks"]["matches"][0]["item"] == "quiz/test/0"
    assert ITEM in report["benchmarks"]["matches"][0]["text"]
    assert (report["benchmarks"]["items"], report["benchmarks"]["short"]) == (2, 1)


def test_other_benchmarks_make_the_data_anew(make_recipe: Callable[..., Path]) -> None:
    make_recipe("instruct")
    with pytest.raises(UserError, match="run `gpt fetch benchmarks`"):
        make_data(NAME, judged_by("quiz"))
    write_benchmark(paths.BENCHMARKS, ITEM)
    write_inputs(NAME, judged_by("quiz"))
    known = read_json(PLACES.inputs / "finetune_data.json", "")["benchmarks"]
    assert known == {"quiz": sha256_file(paths.BENCHMARKS / "quiz.jsonl")}
