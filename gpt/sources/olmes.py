"""Benchmarks as OLMES writes them (AI2's requests.jsonl.gz) to items.

A line is a request to score one continuation of a context; the lines of one doc_id are an item's choices.
"""

import gzip
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from gpt.errors import UserError
from gpt.sources.items import Choice, Item, NumberedItems, Readable, describe_fault, numbered_lines

# Many files hold each document twice, the second time with "Answer:" for its whole context, to normalise by. Those copies
# have doc_ids from here on; taken for items they would double the counts and make every score wrong.
_FIRST_UNCONDITIONAL = 1_000_000

Doc = dict[str, Any]


def read_olmes(path: Path, file: str) -> tuple[str, NumberedItems]:
    """Return benchmark and items of a requests.jsonl.gz, of which the config.json beside it says what it holds.

    `file` is its path in the source: the benchmark is the folder above its form, as in hellaswag/rc_0shot.
    """
    try:
        config = orjson.loads((path.parent / "config.json").read_bytes())["task_config"]
        # `bring` drops the folders that all files of a source are in: of one benchmark alone, that with its name.
        folders = file.split("/")[:-2]
        benchmark, split, shots = folders[-1] if folders else config["task_core"], config["split"], config["num_shots"]
        lettered = config["task_name"].endswith(":mc")
    except (OSError, KeyError, TypeError, AttributeError, orjson.JSONDecodeError) as error:
        raise UserError(
            f"the config.json beside it is not as OLMES writes it ({type(error).__name__}: {error});"
            " let members match both"
        ) from None
    if benchmark not in _CONVERTERS:
        raise UserError(
            f"{benchmark} of OLMES cannot be converted, only {', '.join(_CONVERTERS)};"
            " convert it yourself to a .jsonl with id, benchmark, split, choices, answer and texts in each line"
        )
    if lettered:
        raise UserError("its choices are letters; take a form whose name has rc or bpb in place of mc")

    def items() -> NumberedItems:
        with gzip.open(path) as reader:
            for _, lines in groupby(_requests(reader), key=itemgetter(0)):
                _, numbers, requests = zip(*lines, strict=True)
                try:
                    yield numbers[0], _convert(requests, benchmark, split, shots)
                except ValidationError as error:
                    raise UserError(f"line {numbers[0]}: {describe_fault(error)}; take another form") from None
                except _NOT_OLMES as error:
                    raise UserError(_not_olmes(numbers[0], error)) from None

    return benchmark, items()


def _requests(reader: Readable) -> Iterator[tuple[int, int, Doc]]:
    """Yield doc_id, line number and request of each line, without the unconditional copies."""
    for number, line in numbered_lines(reader):
        try:
            request = orjson.loads(line)
            doc_id = int(request["doc_id"])
        except _NOT_OLMES as error:
            raise UserError(_not_olmes(number, error)) from None
        if doc_id < _FIRST_UNCONDITIONAL:
            yield doc_id, number, request


_NOT_OLMES = (KeyError, TypeError, AttributeError, IndexError, ValueError)
"What reading a request raises that has other fields, or others in them (also that it is no JSON)."


def _not_olmes(number: int, error: Exception) -> str:
    reason = f"has no {error}" if isinstance(error, KeyError) else str(error)
    return f"line {number}: not a request as OLMES writes it: {reason}; take another form of the benchmark"


def _convert(requests: tuple[Doc, ...], benchmark: str, split: str, shots: int) -> Item:
    """Make an item of its requests; raise `ValueError` (or what a missing field raises) if they do not fit each other."""
    first, doc = requests[0], requests[0]["doc"]
    if [request["idx"] for request in requests] != list(range(len(requests))):
        raise ValueError("its requests are not numbered 0, 1, …")
    choices = tuple(
        Choice(_zero_shot(request["request"]["context"], doc, shots), request["request"]["continuation"])
        for request in requests
    )
    if "choices" in doc and [choice.continuation for choice in choices] != [f" {text}" for text in doc["choices"]]:
        raise ValueError("its continuations are not doc.choices")
    answer, texts = _CONVERTERS[benchmark](doc, choices)
    label = first["label"]  # the index too, or the texts of right answers
    if label != (answer if isinstance(label, int) else [doc["choices"][answer], *label[1:]]):
        raise ValueError(f"label = {label!r} is not the answer {answer}")
    # Of native ids that are numbers HellaSwag's are not unique, and the others' are the doc_id; WinoGrande has none.
    native_id = first["native_id"] if isinstance(first["native_id"], str) else first["doc_id"]
    return Item(
        id=f"{benchmark}/{split}/{native_id}",
        benchmark=benchmark,
        split=split,
        choices=choices,
        answer=answer,
        texts=tuple(texts),
    )


def _zero_shot(context: str, doc: Doc, shots: int) -> str:
    """Return the context without the solved examples that it begins with."""
    if not shots:
        return context
    if not context.endswith(doc.get("query") or "\0"):
        raise ValueError(f"the {shots} solved examples cannot be told from the question; take a 0shot form")
    return doc["query"]


def _inside(text: str, before: str, after: str) -> str:
    if not (text.startswith(before) and text.endswith(after)):
        raise ValueError(f"{text[:40]!r} … does not stand between {before!r} and {after!r}")
    return text[len(before) : len(text) - len(after)]


# One function a benchmark: the answer's index, and the texts.
Choices = tuple[Choice, ...]


def _hellaswag(doc: Doc, choices: Choices) -> tuple[int, list[str]]:
    return doc["gold"], [choice.context + choice.continuation for choice in choices]


def _piqa(doc: Doc, choices: Choices) -> tuple[int, list[str]]:
    if doc["choices"] != [doc["sol1"], doc["sol2"]]:
        raise ValueError("doc.choices are not sol1 and sol2")
    return doc["gold"], [doc["goal"] + choice.continuation for choice in choices]


def _arc_easy(doc: Doc, choices: Choices) -> tuple[int, list[str]]:
    question = _inside(doc["query"], "Question: ", "\nAnswer:")
    return doc["gold"], [question + choice.continuation for choice in choices]


def _winogrande(doc: Doc, choices: Choices) -> tuple[int, list[str]]:
    """The options differ in their context; what follows them is scored, and the same."""
    texts = [choice.context + choice.continuation for choice in choices]
    filled = [doc["sentence"].replace("_", doc[option], 1) for option in ("option1", "option2")]
    if [text.split() for text in texts] != [text.split() for text in filled]:  # some sentences have double spaces
        raise ValueError("its requests are not the sentence with option1 and option2")
    return ("1", "2").index(doc["answer"]), texts


def _sciq(doc: Doc, choices: Choices) -> tuple[int, list[str]]:
    if doc["choices"][doc["gold"]] != doc["correct_answer"]:
        raise ValueError("doc.gold is not the index of correct_answer")
    support = doc["support"].strip()  # empty for one in nine
    return doc["gold"], [
        *([support] if support else []),
        *(doc["question"] + choice.continuation for choice in choices),
    ]


def _boolq(doc: Doc, choices: Choices) -> tuple[int, list[str]]:
    if doc["choices"] != ["yes", "no"]:
        raise ValueError("doc.choices are not yes and no")
    passage, _, question = _inside(doc["query"], "", "\nAnswer:").rpartition("\nQuestion: ")
    return doc["gold"], [passage, question]


def _lambada(doc: Doc, choices: Choices) -> tuple[int, list[str]]:
    return 0, [choices[0].context + choices[0].continuation]


def _coqa(doc: Doc, choices: Choices) -> tuple[int, list[str]]:
    turn = int(doc["id"].rpartition("_turn")[2])
    turns = doc["previous_qa"][: turn + 1]  # which holds the later ones too, whatever its name says
    if (turns[-1]["question"], turns[-1]["answer"]) != (doc["question"], doc["choices"][0]):
        raise ValueError(f"turn {turn} of previous_qa is not its question and answer")
    return 0, [doc["story"], "\n".join(f"{each['question']} {each['answer']}" for each in turns)]


_CONVERTERS: dict[str, Callable[[Doc, Choices], tuple[int, list[str]]]] = {
    "arc_easy": _arc_easy,
    "boolq": _boolq,
    "coqa": _coqa,
    "hellaswag": _hellaswag,
    "lambada": _lambada,
    "piqa": _piqa,
    "sciq": _sciq,
    "winogrande": _winogrande,
}
