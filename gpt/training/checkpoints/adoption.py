"""Going on from another run's checkpoint, knowingly: `gpt pretrain --adopt FOLDER`.

Other settings, data, code or versions make another run, which begins at step 0. Who knows that the difference does no harm takes
over the other run's newest checkpoint. The lineage of what comes of it says so: the present settings alone would not give it.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt import paths
from gpt.errors import UserError
from gpt.files import write_json
from gpt.params.project import Params
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.fingerprint import Fingerprint, describe_differences, fingerprint, load_fingerprint

_FILE = "adopted.json"

Json = dict[str, Any]


def adopt(params: Params, source: Path) -> str:
    """Copy the newest whole checkpoint of the run in `source` to where training with `params` goes on; say what was done.

    Raises `UserError` if there is none, somebody trains in one of the two folders, the present run has checkpoints of its own,
    or the checkpoint does not fit the present model and optimizer.
    """
    now = fingerprint(params)
    target = paths.kept(paths.CHECKPOINTS) / now.id
    if not source.is_dir():
        raise UserError(f"--adopt {source}: no folder; `gpt checkpoints` shows those of runs")
    if target.exists() and source.resolve() == target.resolve():
        raise UserError(
            f"--adopt {source}: is the present run's own folder; `gpt pretrain` goes on from there by itself"
        )
    if holder := checkpoints.holder(source):
        raise UserError(f"--adopt {source}: {holder} trains there; stop it first")
    before = load_fingerprint(source)
    if before is None:
        raise UserError(
            f"--adopt {source}: has no fingerprint.json, so what differs cannot be told; name a run's folder"
        )
    with checkpoints.single_trainer(target):
        earlier = read_adopted(target)
        if earlier and earlier[-1]["fingerprint"] == before.id and checkpoints.steps(target):
            return f"{target}: goes on from {source} already"
        if checkpoints.steps(target):
            raise UserError(
                f"{target}: this run has checkpoints of its own; `rm -r {target}` to go on from {source} instead"
            )
        found = checkpoints.load_latest(source)
        if found is None:
            raise UserError(f"--adopt {source}: holds no whole checkpoint")
        differences = describe_differences(before, now)
        _check_fit(params, before, found, source)
        record = {"fingerprint": before.id, "step": found.step, "differences": differences}
        # First what tells of the checkpoint: a kill leaves none that nobody tells of, and a run that finds none tells of none.
        write_adopted(target, [*read_adopted(source), record])
        now.save(target)
        # Another run of the tracking server: settings of one that has begun cannot be changed there. A checkpoint of its interval,
        # so that going back comes back to it and not to this run's own beginning.
        checkpoints.save(target, replace(found, state=found.state | {"run": None}, is_scheduled=True))
    lines = [
        f"going on from step {found.step} of {source}, although this differs:",
        *(f"  {line}" for line in differences),
    ]
    return "\n".join(lines)


def read_adopted(folder: Path) -> list[Json]:
    """Return the runs that the one in a checkpoint folder was taken over from, oldest first: fingerprint, step, differences."""
    try:
        return json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []


def write_adopted(folder: Path, runs: list[Json]) -> None:
    """Write down in a checkpoint folder the runs that its own was taken over from; no file where there are none."""
    if runs:
        write_json(folder / _FILE, runs)
    else:
        (folder / _FILE).unlink(missing_ok=True)


def describe_other_run(root: Path, now: Fingerprint) -> str | None:
    """Return what differs between the present run and the newest unfinished one of its name, and how to go on from that one.

    None if this run has newer checkpoints of its own, or there is no other.
    """
    own = _newest(root / now.id)
    others = [
        (newest, folder, before)
        for folder in root.glob("*")
        if folder.name != now.id
        and (newest := _newest(folder)) > own
        and (before := load_fingerprint(folder)) is not None
        and before.name == now.name
    ]
    if not others:
        return None
    _, folder, before = max(others, key=lambda other: (other[0], other[1].name))
    step = checkpoints.step_of(checkpoints.steps(folder)[-1])
    does = (
        f"goes on after step {checkpoints.step_of(checkpoints.steps(root / now.id)[-1])}" if own else "begins at step 0"
    )
    return "\n".join(
        [
            f"an unfinished run of {now.name} has come to step {step} in {folder}; this one {does}, since this differs:",
            *(f"  {line}" for line in describe_differences(before, now)),
            f"to go on from there all the same: gpt pretrain --adopt {folder}",
        ]
    )


def _newest(folder: Path) -> float:
    """Return when the newest checkpoint of a run was written, 0 if there is none."""
    return max((path.stat().st_mtime for path in checkpoints.steps(folder)), default=0.0)


def _check_fit(params: Params, before: Fingerprint, found: checkpoints.Checkpoint, source: Path) -> None:
    """Raise `UserError` if the checkpoint's tensors are not those of the present model and optimizer."""
    old, new = before.parts["settings"], params.section("train")
    if old.get("train.optimizer") != new["optimizer"]:
        raise UserError(
            f"--adopt {source}: trained by {old.get('train.optimizer')}, and params.yaml has train.optimizer = {new['optimizer']};"
            " the state of one is none of the other"
        )
    if found.step > params.train.max_steps:
        raise UserError(
            f"--adopt {source}: is at step {found.step}, beyond params.yaml: train.max_steps = {params.train.max_steps}"
        )
    import torch

    from gpt.model.transformer import GPTConfig, GPTModel
    from gpt.tokens.tokenizer import load_tokenizer

    with torch.device("meta"):
        model = GPTModel(GPTConfig(vocab_size=load_tokenizer(paths.TOKENIZER).n_vocab, **params.section("model")))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    saved = {name: tuple(tensor.shape) for name, tensor in found.weights.items()}
    if expected != saved:
        name = next(name for name in sorted(expected.keys() | saved.keys()) if expected.get(name) != saved.get(name))
        raise UserError(
            f"--adopt {source}: its model has other weights: {name} is {saved.get(name, 'not there')}, params.yaml asks for"
            f" {expected.get(name, 'none')}; only a model of the same shape can go on"
        )
