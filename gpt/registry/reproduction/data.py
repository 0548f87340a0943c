"""The data of a version, brought to the place where it is made again: from DVC's cache, else its remote, else fetched anew.

So are the weights that it started from, where there are some.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from gpt import paths
from gpt.files import atomic_file, parse_yaml
from gpt.registry.lineage import DVC_LOCK
from gpt.registry.record import Record
from gpt.registry.reproduction import initial
from gpt.registry.reproduction.content import differing_files, listing, md5_of, object_of
from gpt.registry.reproduction.place import Place
from gpt.registry.reproduction.stages import run_dvc, save_lock

_BROUGHT = "brought"  # its data, as far as DVC has them: not tried again

Json = dict[str, Any]


def bring_data(place: Place, record: Record, tell: Callable[[str], object]) -> None:
    """Bring what the first stages fetched then from DVC's cache or remote; what neither has whole, those stages fetch anew.

    A stage whose outputs are brought is frozen in the worktree: DVC does not ask whether it should run. The weights that the
    version started from are brought in any case: its own stages know no registry, and no alias as it was. Raises `UserError` or
    `StageFailed` if nobody has them.
    """
    if (place.root / _BROUGHT).exists():
        return
    brought: list[str] = []
    stages = record.values["stages"]
    if content := record.files.get(DVC_LOCK.name):
        for name in fetching_stages(stages):
            _write_lock(place, content, [*brought, name])
            if _bring(place, stages[name]["outs"], tell):
                brought.append(name)
        _write_lock(place, content, brought)
    if initial.STAGE not in brought and initial.bring_initial(place, record, tell):
        brought.append(initial.STAGE)
    if brought:
        _freeze(place, brought)
    save_lock(place)
    (place.root / _BROUGHT).touch()


def fetching_stages(stages: Json) -> list[str]:
    """Return the stages that depend on nothing but what `gpt inputs` wrote: those that bring data from outside."""
    inputs = f"{paths.INPUTS.as_posix()}/"
    return [
        name for name, stage in stages.items() if stage["deps"] and all(dep.startswith(inputs) for dep in stage["deps"])
    ]


def describe_damage(project: Path, cache: Path, outs: Json) -> list[str]:
    """Return the files of outputs in a project that have not the recorded bytes; outputs that are not there have none."""
    return [
        f"{name}: {what}"
        for path, out in outs.items()
        if (project / path).exists()
        for name, what in _damage(project, cache, path, out["hash"]).items()
    ]


def _damage(project: Path, cache: Path, path: str, digest: str) -> dict[str, str]:
    if (project / path).is_file():
        now = md5_of(project / path)
        return {} if now == digest else {path: f"md5 was {digest}, is {now}"}
    recorded = listing(cache, digest)  # without it nothing tells what was there
    found = differing_files(project / path, recorded) if recorded else {}
    return {f"{path}/{name}": what for name, what in found.items()}


def _bring(place: Place, outs: Json, tell: Callable[[str], object]) -> bool:
    """Bring the outputs of a stage from DVC; return False if it has not got all of them as they were."""
    for way, where in (("checkout", "cache"), ("pull", "remote")):
        if run_dvc(place, way, *outs)[0] == 0 and not _discard_damaged(place, outs, tell):
            tell(f"{', '.join(outs)}: from DVC's {where}")
            return True
    return False


def _discard_damaged(place: Place, outs: Json, tell: Callable[[str], object]) -> bool:
    """Remove from DVC's cache what it holds under the name of other bytes, as DVC does; return whether there was any."""
    found = False
    for path, out in outs.items():
        damage = _damage(place.project, place.cache, path, out["hash"])
        files = listing(place.cache, out["hash"])
        for name in damage:
            tell(
                f"{name}: DVC's cache holds other bytes than were recorded ({damage[name]}); removed there and brought anew"
            )
            digest = files.get(name.removeprefix(f"{path}/")) or str(out["hash"])
            object_of(place.cache, digest).unlink(missing_ok=True)
        if damage:
            found = True
            _remove(place.project / path)  # DVC believes that it has checked it out
    return found


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _freeze(place: Place, names: list[str]) -> None:
    """Let DVC take stages for done. `dvc freeze` refuses a dvc.yaml in which a `${` stands."""
    path, yaml = place.project / "dvc.yaml", YAML()
    description = yaml.load(path.read_text(encoding="utf-8"))
    for name in names:
        description["stages"][name]["frozen"] = True
    with atomic_file(path) as partial:
        yaml.dump(description, partial)


def _write_lock(place: Place, recorded: bytes, names: list[str]) -> None:
    """Leave in the worktree's dvc.lock the recorded entries of some stages; no file where there are none."""
    lock = parse_yaml(recorded.decode())
    lock["stages"] = {name: entry for name, entry in lock["stages"].items() if name in names}
    path = place.project / DVC_LOCK
    if not names:
        path.unlink(missing_ok=True)
        return
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False  # in {a: models:/NAME@ALIAS} DVC finds an unexpected colon
    with atomic_file(path) as partial:
        yaml.dump(lock, partial)
