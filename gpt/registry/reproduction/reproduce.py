"""Making a registered version again, and saying whether it is the same: `gpt reproduce models:/NAME/VERSION`.

Hashes are compared with the record as each stage ends; the first result that differs ends it, as nothing after it could be the
same. The verdict is about what came out. Reasons (code, packages, processor, threads) are looked for once something differs.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt import paths
from gpt.files import read_json, sha256_file
from gpt.registry.packages import installed_packages
from gpt.registry.record import Record, threads_of
from gpt.registry.reproduction import differences
from gpt.registry.reproduction.changes import setting_differences
from gpt.registry.reproduction.content import listing
from gpt.registry.reproduction.data import bring_data, describe_damage, fetching_stages
from gpt.registry.reproduction.place import Place, open_place
from gpt.registry.reproduction.stages import StageFailed, run_stages
from gpt.registry.versions import set_shared
from gpt.secrets.hiding import redact, redact_values
from gpt.tokens.shards import data_id
from gpt.tokens.tokenizer import tokenizer_id

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

REPRODUCED = "reproduced"
"Tag of a version: the last verdict in words. Those with a time behind a dot are the last verdicts as JSON."
_KEPT_VERDICTS = 20
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_WRONG_SOURCE = "but what came has"  # as gpt/sources/fetch.py says it

Json = dict[str, Any]
Tell = Callable[[str], object]


@dataclass
class Verdict:
    """What came of making a version again; `first` names the first result that differs, "" if all are identical."""

    model: str
    time: str
    host: str
    weights_sha256: str
    first: str = ""
    details: list[str] = field(default_factory=list)
    "Where it differs."
    reasons: list[str] = field(default_factory=list)
    "What is not as it was, in the code or around it, and so may be why."
    same_weights: bool = False
    "They were made again before something else differed, as an evaluation."
    pages: list[str] = field(default_factory=list)
    "Pages that look different; they are no results."

    @property
    def identical(self) -> bool:
        return not self.first

    def describe(self) -> str:
        """Return the verdict, a line each for what differs and why that may be."""
        lines = [f"{self.model}: {self.in_a_word()}", *(f"  {line}" for line in self.details)]
        if self.first:
            lines.append(
                "  why that may be:" if self.reasons else "  code, packages, processor and threads are those of then"
            )
            lines += [f"    {line}" for line in self.reasons]
        if self.pages:
            lines.append(
                f"  drawn otherwise, as by another version of a library: {', '.join(self.pages)}; a page is no result"
            )
        return "\n".join(lines)

    def in_a_word(self) -> str:
        if not self.first:
            return f"identical, weights {self.weights_sha256}"
        return f"differs, first in: {self.first}" + ("; the weights are identical" if self.same_weights else "")

    def to_json(self) -> str:
        return json.dumps(redact_values(asdict(self) | {"identical": self.identical}))


def reproduce(project: Path, uri: str, record: Record, *, keep: bool, tell: Tell) -> Verdict:
    """Make a version again in a folder of its own and compare; the folder stays if something differs, or if `keep`.

    Raises `UserError` if it cannot be made here, `StageFailed` if a stage fails; started again it goes on where it was stopped.
    """
    from gpt.processes.machine import describe_hardware

    values = record.values
    hardware, threads = differences.machine_of(describe_hardware()), values["training"]["threads"]
    environment = {"packages": installed_packages(), "processor": differences.processor_of(hardware)}
    with open_place(project, uri, record, environment) as place:
        tell(
            f"{uri}: commit {values['code']['commit']}, {'goes on' if place.goes_on else 'is made again'} in {place.root}"
        )
        if before := values["parents"].get("continues"):
            tell(
                f"it continues run {before['fingerprint']} from step {before['step']}: here all steps are made, without that run"
            )
        host = f"{hardware}, threads: {threads}" if threads else hardware
        verdict = Verdict(uri, datetime.now(UTC).strftime(_TIME), host, values["model"]["weights_sha256"])
        bring_data(place, record, tell)
        _run(place, record, verdict, tell)
        if verdict.first:
            verdict.reasons = _reasons(place, record, hardware)
        if verdict.first or keep:
            place.leave()
            tell(f"kept: {place.root}")
        else:
            place.remove()
    return verdict


def note(client: "MlflowClient", version: "ModelVersion", verdict: Verdict) -> None:
    """Keep a verdict with the version: the last one in words, the last twenty as JSON."""
    name, number = version.name, str(version.version)
    when = verdict.time[:19].replace("T", " ")
    words = f"{when} UTC, {verdict.host}: {verdict.in_a_word()}"
    set_shared(client.set_model_version_tag, name, number, f"{REPRODUCED}.{verdict.time}", verdict.to_json())
    set_shared(client.set_model_version_tag, name, number, REPRODUCED, redact(words))
    tags = client.get_model_version(name, number).tags
    for old in sorted(tag for tag in tags if tag.startswith(f"{REPRODUCED}."))[:-_KEPT_VERDICTS]:
        client.delete_model_version_tag(name, number, old)


def _run(place: Place, record: Record, verdict: Verdict, tell: Tell) -> None:
    """Run the stages and fill the verdict with what differs first."""
    stages = record.values["stages"]

    def look(name: str, outs: Json) -> bool:
        if name not in stages:
            return True  # no dvc.lock recorded this model: its identities are compared in the end
        recorded = stages[name]["outs"]
        verdict.pages += [page for page in differences.differing_pages(recorded, outs) if page not in verdict.pages]
        paths_ = differences.differing_outputs(recorded, outs)
        tell(
            f"{name}: {'differs' if paths_ else 'identical'}"
            if any(map(differences.is_result, recorded))
            else f"{name}: done"
        )
        if not paths_:
            verdict.same_weights |= paths.BASE_MODEL.as_posix() in outs
            return True
        verdict.first = ", ".join(dict.fromkeys(differences.NAMES.get(path, path) for path in paths_))
        verdict.details = [*_parting(place, record, paths_), *_hashes(place, recorded, outs, paths_)]
        return False

    try:
        run_stages(place, record.values["training"]["threads"], look, lambda line: tell(f"  {line}"))
    except StageFailed as failure:
        if _WRONG_SOURCE not in failure.message:
            raise
        verdict.first, verdict.details = "sources", failure.message.splitlines()
    if not verdict.first:
        _compare_identities(place, record, verdict)


def _compare_identities(place: Place, record: Record, verdict: Verdict) -> None:
    """Compare data, tokenizer and weights by SHA-256: no lock may have recorded this model, and a file of DVC's may be damaged."""
    model, data = record.values["model"], record.values["data"]
    found = (
        ("tokenizer", model["tokenizer_sha256"], lambda: tokenizer_id(place.project / paths.TOKENIZER)),
        ("tokens", data["data_sha256"], lambda: data_id(place.project / paths.TOKENS)),
        (
            "weights",
            model["weights_sha256"],
            lambda: sha256_file(place.project / paths.BASE_MODEL / "model.safetensors"),
        ),
    )
    for name, recorded, identity in found:
        if (now := identity()) != recorded:
            verdict.first = name
            verdict.details = [f"{name}: sha256 was {recorded}, is {now}", *_parting(place, record, [])]
            return
    if record.values["stages"]:
        return
    now_in = (
        paths.EVALUATION if (place.project / paths.EVALUATION).exists() else paths.METRICS
    )  # an earlier release's code
    for path in (paths.TRAINING_PLOT, paths.VALIDATION_PLOT, now_in):
        then = record.files.get(path.name)
        if then is not None and then != (place.project / path).read_bytes():
            verdict.first, verdict.same_weights = differences.NAMES[path.as_posix()], True
            verdict.details = [f"{path}: has other bytes than recorded", *_parting(place, record, [path.as_posix()])]
            return


def _hashes(place: Place, recorded: Json, found: Json, changed: list[str]) -> list[str]:
    lines = []
    for path in changed:
        was, now = (outs[path]["hash"] if path in outs else "not there" for outs in (recorded, found))
        lines.append(f"{path}: was {was}, is {now}")
        files, new = listing(place.cache, was), listing(place.cache, now)
        if names := sorted(name for name in files.keys() | new.keys() if files.get(name) != new.get(name)):
            lines.append(f"    {len(names)} of its files, the first {names[0]}")
    return lines


def _parting(place: Place, record: Record, changed: list[str]) -> list[str]:
    """Return from which step the loss of training departs, if training was what differed."""
    curves = ((paths.TRAINING_PLOT, "train_loss"), (paths.VALIDATION_PLOT, "validation_loss"))
    if changed and not {paths.BASE_MODEL.as_posix(), *(path.as_posix() for path, _ in curves)} & {*changed}:
        return []
    lines = []
    for path, column in curves:
        if (then := record.files.get(path.name)) and (place.project / path).exists():
            lines.append(differences.describe_curve(then, (place.project / path).read_bytes(), column))
    if lines and not any(lines):
        return ["the loss is the same in every row of plots/: the runs part after the last of them"]
    return [line for line in lines if line][:1]


def _reasons(place: Place, record: Record, hardware: str) -> list[str]:
    """Return what is not as it was: code and libraries that stages compute with, machine, packages, runs that it went on from."""
    values = record.values
    threads, processes = values["training"]["threads"], values["training"]["processes"]
    if (place.project / paths.RUN).exists():  # else training has not ended
        run = read_json(place.project / paths.RUN, "see what `gpt pretrain` said", ("hardware", "num_processes"))
        threads, processes = threads_of(run["hardware"]), run["num_processes"]
    lines = setting_differences(values, place.project).deciding
    stages = values["stages"]
    lines += [
        line
        for name in fetching_stages(stages)
        for line in describe_damage(place.project, place.cache, stages[name]["outs"])
    ]
    lines += differences.describe_inputs(values["inputs"], differences.read_inputs(place.project))
    lines += differences.describe_environment(values, hardware, threads, processes)
    lines += [
        f"it took over the checkpoint of another run, which its settings do not give: {one.get('text') or one['fingerprint']}"
        for one in values["parents"]["adopted"]
    ]
    if before := values["parents"].get("continues"):
        run = f" (MLflow run {before['run_id']})" if before["run_id"] else ""
        lines.append(
            f"its first {before['step']} steps are those of run {before['fingerprint']}{run}, and are made anew here: that one may"
            " have had another processor, other threads or processes, or have gone back in training"
        )
    if any(line.startswith("package ") for line in lines):
        lock = place.root / "requirements.lock"
        lines.append(
            f"for its packages: python -m venv ENV && ENV/bin/pip install --no-deps -r '{lock}' && ENV/bin/pip install --no-deps"
            f" -e . && ENV/bin/gpt reproduce {place.uri}"
        )
    return lines
