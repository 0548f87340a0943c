"""Bring the benchmarks of params.yaml to data/benchmarks, in one form: a JSON object a line, an item each.

An item holds what a model is scored on and, apart from that, the words that no training document may contain.
Files come as OLMES writes them (AI2's requests.jsonl.gz) or in that form already.
"""

import gzip
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count, groupby
from operator import itemgetter
from pathlib import Path
from typing import IO, Annotated, Any, Self

import orjson
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from gpt.errors import UserError, located
from gpt.files import atomic_folder, read_json, sha256_file, write_json
from gpt.params.sources import Source
from gpt.params.types import FileName, NonNegativeInt, Text
from gpt.sources.fetch import bring

_MAX_LINE_BYTES = 1 << 24  # of lines that inflate without end
_STRICT = ConfigDict(strict=True, extra="forbid")


def _words(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


@dataclass(frozen=True, config=_STRICT)
class Choice:
    context: str
    continuation: Text
    "Begins with its space."


@dataclass(frozen=True, config=_STRICT)
class Item:
    """A question of a benchmark, without examples before it: the choice that the model finds likeliest should be `answer`."""

    id: Text
    "As in hellaswag/validation/24; of no other item."
    benchmark: FileName
    split: Text
    choices: Annotated[tuple[Choice, ...], Field(min_length=1)]
    answer: NonNegativeInt
    "Index of the right choice; 0 where the text has but one, whose likelihood is measured."
    texts: Annotated[tuple[Annotated[str, AfterValidator(_words)], ...], Field(min_length=1)]
    "Stretches of the item's own words, without the template around them."

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> Self:
        if self.answer >= len(self.choices):
            raise ValueError(f"answer = {self.answer}: must be below {len(self.choices)}, the number of choices")
        return self


_ITEM = TypeAdapter(Item)


def build_benchmarks(sources: tuple[Source, ...], output: Path) -> dict[str, dict[str, int]]:
    """Write `output/<benchmark>.jsonl` for each benchmark of the sources, and what they are to `output/benchmarks.json`.

    Returns the number of items by benchmark and split. Raises `UserError` for what `bring` refuses, a file that is not as
    it should be, and items that come twice; then leaves `output` as it was.
    """
    listing: dict[str, dict[str, Any]] = {}
    origins: dict[tuple[str, str], str] = {}  # of each benchmark's split
    with atomic_folder(output) as folder:
        with tempfile.TemporaryDirectory(dir=folder) as brought:
            for source in sources:
                with located(f"params.yaml: fetch.benchmarks {source.name}"):
                    for file, path in _bring_files(source, Path(brought, source.name)).items():
                        with located(file):
                            benchmark, items = _read_olmes(path, file) if path.suffix == ".gz" else _read_common(path)
                            entry = listing.setdefault(benchmark, {"sources": {}, "items": Counter(), "ids": set()})
                            entry["sources"][source.name] = source.licence
                            with (folder / f"{benchmark}.jsonl").open("ab") as writer:
                                _write_items(items, writer, entry, origins, f"{source.name}/{file}")
        for benchmark, entry in listing.items():
            del entry["ids"]
            entry["sha256"] = sha256_file(folder / f"{benchmark}.jsonl")
        write_json(folder / "benchmarks.json", listing)
    return {benchmark: dict(entry["items"]) for benchmark, entry in listing.items()}


def read_items(path: Path) -> Iterator[Item]:
    """Yield the items of a file of data/benchmarks; raise `UserError` naming the line that is none."""
    if not path.is_file():
        raise UserError(f"{path}: not found; run `gpt fetch`")
    with located(str(path)):
        for _, item in _read_common(path)[1]:
            yield item


def check_benchmarks(names: tuple[str, ...], folder: Path) -> None:
    """Raise `UserError` for names of evaluate.benchmarks that `gpt fetch` has brought no items of to `folder`."""
    known = read_json(folder / "benchmarks.json", "run `gpt fetch`")
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"params.yaml: evaluate.benchmarks: {', '.join(unknown)} is not in {folder}, which holds"
            f" {', '.join(known) or 'none'}; add a source of it to fetch.benchmarks, or take the name out"
        )


Reader = IO[bytes] | gzip.GzipFile
Items = Iterator[tuple[int, Item]]
"Items, each with the number of the line that it begins on."


def _bring_files(source: Source, target: Path) -> dict[str, Path]:
    """Bring a source to the new folder `target`; return its files that hold items, by their path in it."""
    target.mkdir()
    bring(source, target)
    files = (path for path in target.rglob("*") if path.is_file())
    paths = sorted(path for path in files if path.suffix == ".jsonl" or path.name == "requests.jsonl.gz")
    if not paths:
        raise UserError("holds neither a requests.jsonl.gz of OLMES nor a .jsonl file; see docs/data.md for its form")
    return {path.relative_to(target).as_posix(): path for path in paths}


def _write_items(
    items: Items, writer: IO[bytes], entry: dict[str, Any], origins: dict[tuple[str, str], str], origin: str
) -> None:
    """Write the items of the file `origin`, count them in `entry`, and see that none has come before."""
    number = 0
    for number, item in items:
        first = origins.setdefault((item.benchmark, item.split), origin)
        if first != origin:
            raise UserError(f"{first} brings {item.benchmark} {item.split} too; keep one of them")
        if item.id in entry["ids"]:
            raise UserError(f"line {number}: id = {item.id!r} is that of an item before; give each its own")
        entry["ids"].add(item.id)
        entry["items"][item.split] += 1
        writer.write(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE))
    if not number:
        raise UserError("holds no item; take it out of the source")


def _lines(file: Reader) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of an open file with their numbers; raise `UserError` where it is damaged."""
    try:
        for number in count(1):
            line = file.readline(_MAX_LINE_BYTES)
            if not line:
                return
            if len(line) == _MAX_LINE_BYTES:
                raise UserError(f"line {number}: is longer than {_MAX_LINE_BYTES:,} bytes; shorten the item")
            yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"damaged ({error}); fetch an undamaged one") from None


def _read_common(path: Path) -> tuple[str, Items]:
    """Return benchmark and items of a file in the common form, which is named for its benchmark."""

    def items() -> Items:
        with path.open("rb") as file:
            for number, line in _lines(file):
                try:
                    item = _ITEM.validate_json(line)
                except ValidationError as error:
                    raise UserError(f"line {number}: {_fault(error)}") from None
                if item.benchmark != path.stem:
                    raise UserError(
                        f"line {number}: benchmark = {item.benchmark!r}: must be {path.stem!r}, as the file is named"
                    )
                yield number, item

    return path.stem, items()


def _fault(error: ValidationError) -> str:
    """The first fault of an item, with the field's name."""
    fault = error.errors(include_url=False)[0]
    # What it says of the place inside the JSON would be taken for the line in the file.
    message = fault["msg"].removeprefix("Value error, ").partition(" at line ")[0]
    message = message[0].lower() + message[1:]
    return f"{'.'.join(map(str, fault['loc']))}: {message}" if fault["loc"] else message


# OLMES: a line is a request to score one continuation of a context; the lines of one doc_id are an item's choices.

# Many files hold each document twice, the second time with "Answer:" for its whole context, to normalise by. Those copies
# have doc_ids from here on; taken for items they would double the counts and make every score wrong.
_FIRST_UNCONDITIONAL = 1_000_000

Doc = dict[str, Any]


def _read_olmes(path: Path, file: str) -> tuple[str, Items]:
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
            " convert it yourself to the form of docs/data.md"
        )
    if lettered:
        raise UserError("its choices are letters; take a form whose name has rc or bpb in place of mc")

    def items() -> Items:
        with gzip.open(path) as reader:
            for _, lines in groupby(_requests(reader), key=itemgetter(0)):
                _, numbers, requests = zip(*lines, strict=True)
                try:
                    yield numbers[0], _convert(requests, benchmark, split, shots)
                except ValidationError as error:
                    raise UserError(f"line {numbers[0]}: {_fault(error)}; take another form") from None
                except _NOT_OLMES as error:
                    raise UserError(_not_olmes(numbers[0], error)) from None

    return benchmark, items()


def _requests(reader: Reader) -> Iterator[tuple[int, int, Doc]]:
    """Yield doc_id, line number and request of each line, without the unconditional copies."""
    for number, line in _lines(reader):
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
