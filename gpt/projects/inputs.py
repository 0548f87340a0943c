"""`gpt inputs`: what each stage depends on and no file of its own says, as small files that DVC compares."""

from pathlib import Path
from typing import Any

from gpt import paths
from gpt.code import STAGES, stage_identity
from gpt.corpus.filtering.needs import filter_files
from gpt.files import write_json
from gpt.params.project import Params
from gpt.sources.local import describe_sources


def write_inputs(params: Params, output: Path = paths.INPUTS) -> None:
    """Write `<stage>.json` for every stage to the folder `output`: its code, versions of its libraries, and what it fetches."""
    output.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        write_json(output / f"{stage}.json", describe_inputs(stage, params))


def describe_inputs(stage: str, params: Params) -> dict[str, Any]:
    """Return what a stage depends on besides files of the project and values of params.yaml."""
    identity: dict[str, Any] = stage_identity(stage)
    match stage:
        case "fetch":
            return identity | {"sources": describe_sources(params.fetch.sources)}
        case "fetch_benchmarks":
            return identity | {"sources": describe_sources(params.fetch.benchmarks)}
        case "prepare":
            files = filter_files(params.prepare)
            return identity | ({"files": files} if files else {})
        case "fetch_weights":
            from gpt.registry.initial.origin import describe_origin, named_by_params

            return identity | {"origin": describe_origin(named_by_params(params))}
        case _:
            return identity
