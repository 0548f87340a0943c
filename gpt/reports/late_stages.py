"""Stages of the data that have not run with what params.yaml says now: their figures are of before.

DVC notes in dvc.lock what a stage ran with. Code and libraries are left out: what has changed of them only `gpt inputs` can tell.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from gpt.params.types import flatten

Json = dict[str, Any]

OF_THE_DATA = ("prepare", "tokenizer", "tokenize")

_PARAMS = "params.yaml"
_FETCH_INPUTS = "data/inputs/fetch.json"


def find_late(params: Json, lock: Json, fetch_is_late: bool = False, stages: Sequence[str] = OF_THE_DATA) -> list[str]:
    """Return a line for each of `stages` that has not run with the settings, or after one that has to run.

    `lock` has DVC's stages.
    """
    lines, first = [], ""
    if fetch_is_late:
        lines, first = [f"fetch has not run with the sources of {_PARAMS}"], "fetch"
    for stage in stages:
        if stage not in lock:
            continue
        ran = _flat(lock[stage].get("params", {}).get(_PARAMS, {}))
        wanted = _flat({key: _value(params, key) for key in lock[stage].get("params", {}).get(_PARAMS, {})})
        changed = [
            f"{key} = {wanted.get(key, 'none')} (ran with {ran.get(key, 'none')})"
            for key in sorted(ran.keys() | wanted.keys())
            if ran.get(key) != wanted.get(key)
        ]
        if changed:
            lines.append(f"{stage} has not run with {', '.join(changed)}")
        elif first:
            lines.append(f"{stage} has not run after {first}")
        first = first or stage * bool(changed)
    return lines


def is_fetch_late(params: Json, lock: Json, inputs: str | None) -> bool:
    """Tell whether DVC has fetched other sources than those of params.yaml; `inputs` is what fetch's inputs file holds."""
    if "fetch" not in lock or inputs is None:
        return False
    noted = [_without(source, "content") for source in json.loads(inputs)["sources"]]
    wanted = [_without(source, "licence") for source in params["fetch"]["sources"]]
    ran = {entry["path"]: entry.get("md5") for entry in lock["fetch"].get("deps", [])}
    return noted != wanted or ran.get(_FETCH_INPUTS) != hashlib.md5(inputs.encode(), usedforsecurity=False).hexdigest()


def _without(values: Json, key: str) -> Json:
    return {name: value for name, value in values.items() if name != key}


def _value(params: Json, key: str) -> Any:
    value: Any = params
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _flat(values: Json) -> dict[str, str]:
    """Return values of keys such as prepare.read as JSON by whole keys."""
    flat: Json = {}
    for key, value in values.items():
        flat |= flatten(value, key) if isinstance(value, dict) and value else {key: value}
    return {key: json.dumps(value, ensure_ascii=False) for key, value in flat.items()}
