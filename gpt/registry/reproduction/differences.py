"""What differs between the record of a version and what was made anew, and between their environments.

Pure comparisons, each returning lines for a person; `reproduce.py` decides which of them matter when.
"""

import csv
import io
import json
import platform
from pathlib import Path
from typing import Any

from gpt import code, paths
from gpt.files import sha256_json
from gpt.registry.packages import installed_packages

# What people call the outputs.
NAMES = {
    paths.RAW.as_posix(): "sources",
    paths.BENCHMARKS.as_posix(): "benchmarks",
    paths.INITIAL.as_posix(): "initial weights",
    paths.DOCUMENTS.as_posix(): "documents",
    paths.TOKENIZER.as_posix(): "tokenizer",
    paths.TOKENS.as_posix(): "tokens",
    paths.BASE_MODEL.as_posix(): "weights",
    paths.TRAINING_PLOT.as_posix(): "training loss",
    paths.VALIDATION_PLOT.as_posix(): "validation loss",
    paths.EVALUATION.as_posix(): "evaluation",
    paths.METRICS.as_posix(): "evaluation",  # which had all figures in an earlier release
}
# Where it ran, and pages that show what came out: another machine or another version of matplotlib may make the same model.
_PAGES = frozenset({paths.DATA_CARD.as_posix(), paths.REPORTS.as_posix()})
_NO_RESULTS = _PAGES | {paths.RUN.as_posix()}

Json = dict[str, Any]


def is_result(path: str) -> bool:
    """Whether an output is a result; what `gpt inputs` writes says what it was made with, and is looked at for reasons."""
    return path not in _NO_RESULTS and not path.startswith(f"{paths.INPUTS.as_posix()}/")


def differing_outputs(recorded: Json, found: Json) -> list[str]:
    """Return the results of a stage whose hash is not the recorded one, in the order of the record; both are a stage's `outs`."""
    return [
        path
        for path in [*recorded, *(path for path in found if path not in recorded)]
        if is_result(path) and _hash(recorded, path) != _hash(found, path)
    ]


def differing_pages(recorded: Json, found: Json) -> list[str]:
    """Return the pages among a stage's outputs that are not the recorded ones."""
    return [path for path in recorded if path in _PAGES and _hash(recorded, path) != _hash(found, path)]


def describe_curve(recorded: bytes, found: bytes, column: str) -> str | None:
    """Return from which step two curves (bytes of plots/*.csv) differ, and the values there; None if their rows are the same."""
    before, now = _rows(recorded), _rows(found)
    last = "0"
    for old, new in zip(before, now, strict=False):
        if old != new:
            name = (
                column if old.get(column) != new.get(column) else next(key for key in old if old[key] != new.get(key))
            )
            return f"the runs part between step {last} and step {old['step']}: {name} was {old.get(name)}, is {new.get(name)}"
        last = old["step"]
    if len(before) != len(now):
        return f"the curve has {len(now)} rows, and had {len(before)}; those of both are the same"
    return None


def describe_environment(record: Json, hardware: str, threads: int | None, processes: int | None) -> list[str]:
    """Return how this machine and its packages differ from those that a version was made with."""
    made, environment = record["training"], record["environment"]
    lines = []
    if made["hardware"] and processor_of(made["hardware"]) != processor_of(hardware):
        lines.append(f"processor: was {processor_of(made['hardware'])}, is {processor_of(hardware)}")
    if made["threads"] != threads:
        lines.append(f"threads: were {made['threads'] or 'a GPU'}, are {threads or 'a GPU'}")
    if made["processes"] not in (None, processes):
        lines.append(f"processes: were {made['processes']}, are {processes}")
    if environment["python"] and environment["python"] != platform.python_version():
        lines.append(f"Python: was {environment['python']}, is {platform.python_version()}")
    return lines + describe_packages(environment["packages"], installed_packages())


def describe_packages(recorded: dict[str, str], installed: dict[str, str]) -> list[str]:
    """Return the packages of a version that are installed in another version, or not at all; others decided nothing then."""
    return [
        f"package {name}: was {version}, is {installed.get(name, 'not installed')}"
        for name, version in sorted(recorded.items())
        if installed.get(name) != version
    ]


def describe_inputs(recorded: Json, found: Json) -> list[str]:
    """Return which code and which libraries compute otherwise than recorded, and which sources hold other content.

    Both have what `gpt inputs` writes by stage.
    """
    stages = [stage for stage in recorded if stage in found]
    before, now = (_merged({stage: inputs[stage] for stage in stages}) for inputs in (recorded, found))
    return code.describe_differences(before, now)


def _merged(inputs: Json) -> Json:
    """Return code and versions of all stages as one; what a stage fetches counts by its content."""
    merged: Json = {"code": {}, "versions": {}, "inputs": {}}
    for stage in inputs.values():
        merged["code"] |= stage.get("code", {})
        merged["versions"] |= stage.get("versions", {})
        merged["inputs"] |= {
            f"source {source['name']}": sha256_json(source)
            for source in stage.get("sources", ())
            if isinstance(source, dict)
        }
    return merged


def machine_of(hardware: str) -> str:
    """Return what `describe_hardware` says without the threads: as many are used as the version was made with."""
    return hardware.partition(", threads: ")[0]


def _hash(outputs: Json, path: str) -> str | None:
    return outputs.get(path, {}).get("hash")


def _rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def processor_of(hardware: str) -> str:
    """Return the kind of processor of what `describe_hardware` says: `AMD EPYC` of `2 of 4 x AMD EPYC, threads: 2`."""
    return hardware.partition(" x ")[2].partition(", threads: ")[0] or hardware


def read_inputs(folder: Path) -> Json:
    """Return what `gpt inputs` wrote in a project, by stage."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((folder / paths.INPUTS).glob("*.json"))
    }
