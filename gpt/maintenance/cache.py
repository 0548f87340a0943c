"""DVC's caches: what no file of the workspace, branch, tag, stash, experiment, late commit or version that stays names.

DVC finds what its repositories use and removes the rest (`dvc gc`), but it knows no versions of models, and of stashes only when
it is told; what these name is added. A stage that runs has put files there that nothing names yet: then the cache is left alone.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from gpt import locks, paths
from gpt.errors import UserError
from gpt.files import as_object, lenient_yaml
from gpt.maintenance.plan import Item, Limits
from gpt.maintenance.project import Project
from gpt.maintenance.workspace import WORKSPACE, living_holders
from gpt.registry.lineage import DVC_LOCK
from gpt.registry.record import Record
from gpt.registry.reproduction.content import cache_of, listing
from gpt.registry.reproduction.place import left_places

_NAMES = (".dvc/cache", f"{paths.RECIPES}/.dvc/cache")
_COPIES = {
    paths.EXPERIMENTS / "standalone": "*",
    paths.EXPERIMENTS / "celery": "*",
    paths.EXPERIMENTS / "sweeps": "*/*",
}
"Where experiments and trials of sweeps run in copies of the project, on files of its cache."
_FRESH_SECONDS = 3600.0
_KINDS = ("md5", "md5-dos2unix")


def look(project: Project, limits: Limits, records: Iterable[Record]) -> list[Item]:
    """Return what is unused in the project's cache and in that of its recipes; raise `UserError` if somebody is at work."""
    check_idle()
    kept, items = frozenset(_named(records)), []
    for name in _NAMES:
        if Path(name).parent.is_dir() and _is_own(name):
            with _opened(name) as repo:
                count, size = _count_unused(repo, _used(repo, project, limits, kept))
            named = f"no branch, tag, stash, experiment, commit of the last {limits.days:g} days or version that stays"
            stays = "" if count else "all of it is in use"
            items.append(Item(name, "cache", size, f"{count:,} files that {named} names", stays))
    return items


def remove(item: Item, project: Project, limits: Limits, records: Iterable[Record]) -> None:
    """Remove what is unused now, object by object, each whole or not at all. Raises `UserError` if somebody is at work."""
    check_idle()
    from dvc_data.hashfile.gc import gc
    from dvc_data.hashfile.hash_info import HashInfo

    with _opened(item.name) as repo, repo.lock:
        used = [HashInfo(*each) for each in _used(repo, project, limits, frozenset(_named(records)))]
        for odb in _stores(repo):
            gc(odb, used)


def _is_own(name: str) -> bool:
    """Whether there is a cache of the project's own; raise `UserError` if it lies where others may use it."""
    place, dvc = cache_of(Path(name).absolute().parents[1]), Path(name).parent.resolve()
    if place.exists() and dvc not in place.resolve().parents:
        raise UserError(
            f"they lie in {place.resolve()}, which other projects may use too; `dvc gc --help` says how to name all"
        )
    return place.is_dir()


def check_idle() -> None:
    """Raise `UserError` if a flow, DVC, an experiment or a reproduction works with the cache now."""
    if locks.is_locked(WORKSPACE):
        raise UserError(f"the flow of {locks.holder(WORKSPACE)} works in this folder; run this after it")
    for rwlock in (Path(".dvc/tmp/rwlock"), paths.RECIPES / ".dvc/tmp/rwlock"):
        if living := living_holders(rwlock):
            raise UserError(f"process {living[0].pid}, of DVC, works in this folder; run this after it")
    for folder, depth in _COPIES.items():
        if copies := [path for path in folder.glob(depth) if (path / ".dvc").is_dir()]:
            raise UserError(
                f"{copies[0]}: an experiment runs there, or was cut off; run this after it, or remove that folder"
            )
    for root, lock in left_places(Path.cwd()):
        if locks.is_locked(lock):
            raise UserError(f"{root}: {locks.holder(lock)} makes a version again; run this after it")


def _used(repo: Any, project: Project, limits: Limits, kept: frozenset[str]) -> set[tuple[str, str]]:
    """Return kind and value of the hashes that stay: those in use, and those of files that have only just come."""
    used = {(kind, value) for value in kept for kind in _KINDS}
    used |= {(str(each.name), str(each.value)) for each in _used_by_dvc(repo, project, limits)}
    now, fresh = time.time(), min(_FRESH_SECONDS, limits.days * 86_400)
    for key, path in _objects(repo):
        with suppress(FileNotFoundError):
            status = path.stat()
            if now - max(status.st_mtime, status.st_ctime) < fresh:
                used.add(key)  # of a stage that has just ended, perhaps
    return used


def _count_unused(repo: Any, used: set[tuple[str, str]]) -> tuple[int, int]:
    """Return how many objects are not used, and how many bytes they take: one that has another name outside takes none here."""
    count = size = 0
    for key, path in _objects(repo):
        if key not in used:
            with suppress(FileNotFoundError):
                status = path.stat()
                count, size = count + 1, size + (status.st_size if status.st_nlink == 1 else 0)
    return count, size


def _objects(repo: Any) -> Iterator[tuple[tuple[str, str], Path]]:
    for odb in _stores(repo):
        yield from (((str(odb.hash_name), value), Path(odb.oid_to_path(value))) for value in odb.all())


def _stores(repo: Any) -> list[Any]:
    """Return the parts of a cache, of this and of earlier releases of DVC, each once."""
    found: list[Any] = []
    for _, odb in repo.cache.by_scheme():
        if odb is not None and odb not in found:
            found.append(odb)
    return found


def _used_by_dvc(repo: Any, project: Project, limits: Limits) -> Iterator[Any]:
    """Yield the hashes that DVC finds to be in use. Of a folder whose list is nowhere here no file is."""
    since = datetime.fromtimestamp(max(0.0, time.time() - limits.days * 86_400)).date().isoformat()
    scope: dict[str, Any] = dict.fromkeys(("all_branches", "all_tags", "all_experiments"), True)
    scope |= {"commit_date": since, "revs": list(project.stashed)}
    for hashes in repo.used_objs(force=True, **(scope if project.has_commits else {})).values():
        yield from hashes


def _named(records: Iterable[Record]) -> Iterator[str]:
    """Yield the hashes that versions name, and places where some are made again; of folders those of the files in them, too."""
    contents = [record.files.get(DVC_LOCK.name, b"") for record in records]
    contents += [path.read_bytes() for root, _ in left_places(Path.cwd()) for path in root.glob("*.lock")]
    caches = [Path(name) for name in _NAMES if Path(name).is_dir()]
    for content in contents:
        for stage in as_object(lenient_yaml(content).get("stages")).values():
            for out in (*as_object(stage).get("outs", ()), *as_object(stage).get("deps", ())):
                if value := as_object(out).get("md5"):
                    yield value
                    for cache in caches:
                        yield from listing(cache, value).values()


@contextmanager
def _opened(name: str) -> Iterator[Any]:
    """Open the repository of DVC's that a cache belongs to; what it refuses is a `UserError`.

    It would warn of each output in each commit that was never made.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    logger = logging.getLogger("dvc")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with Repo(str(Path(name).absolute().parents[1])) as repo:
            yield repo
    except (DvcException, LockError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise UserError(f"{name}: {' '.join(f'{error}{cause}'.split())}") from None
    finally:
        logger.setLevel(level)
