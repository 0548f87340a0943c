"""`gpt data diff REV`: what changed in the data between a git revision and the working tree.

Settings are in git. Counts, and the documents whose ids tell which came and went, are in DVC's cache if anyone made or fetched
that version here; nothing is downloaded for it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from ruamel.yaml.error import YAMLError

from gpt import git, paths
from gpt.corpus.splits import SPLITS
from gpt.errors import UserError
from gpt.files import parse_yaml
from gpt.params.project import PARAMS_FILE
from gpt.reports.late_stages import find_late, is_fetch_late

Json = dict[str, Any]
Open = Callable[[Path], Path | None]
"Finds a file of the data by its path in the project, None if it is not at hand."

_SETTINGS = ("prepare", "tokenizer", "tokenize", "evaluate.benchmarks")
_ELSEWHERE = "prepare.engine"  # where it ran
# Where an earlier release kept the counts, in git.
_BEFORE = {path: Path("metrics") / path.name for path in (paths.PREPARE_COUNTS, paths.TOKENIZE_COUNTS)}
_REPRO = "`dvc repro tokenize`"
_COMMITTED = "choose one whose data were made with `dvc repro` and committed"


@dataclass(frozen=True)
class Version:
    """The data as a revision, or the working tree, describes them: values of params.yaml, counts and dvc.lock."""

    params: Json
    prepare: Json
    "Nothing if the stage has not run in the working tree; so are those of tokenize."
    tokenize: Json
    lock: Json
    "Its stages; nothing if there is none."


def diff(project: Path, revision: str) -> list[str]:
    """Return what changed since `revision`, a line each, in sections.

    Raises `UserError` outside a git repository, and for a revision that does not exist or has no data.
    """
    commit = _commit(project, revision)
    here = "the working tree"
    committed = _Reader(lambda path: _show(project, commit, path), revision, _COMMITTED)
    lock = committed.lock()
    cached = _find_cached(project, lock)
    old = _read_committed(committed, lock, cached)
    new = _read_here(_Reader(lambda path: _read(project / path), here, f"run {_REPRO} first"))
    lines = [
        *_section("sources", compare_sources(old, new)),
        *_section("settings", compare_settings(old.params, new.params)),
    ]
    for title, stage, before, after, keys in (
        ("documents", "prepare", old.prepare, new.prepare, ("documents", "bytes")),
        ("tokens", "tokenize", old.tokenize, new.tokenize, ("documents", "bytes", "tokens")),
    ):
        changes = _section(title, [*compare_figures(before, after, keys)]) if after else []
        lines += changes or [f"{title}: {stage} has not run in {here}; {_REPRO} runs it"]
    fetch_is_late = is_fetch_late(new.params, new.lock, _read(project / paths.INPUTS / "fetch.json"))
    for name, late in (
        (revision, find_late(old.params, old.lock)),
        (here, find_late(new.params, new.lock, fetch_is_late)),
    ):
        if late:
            title = f"{name} has figures of data from before its params.yaml; {_REPRO} makes them anew"
            lines += _section(title, late)
    if new.prepare and any(old.prepare[split].get("sha256") != new.prepare[split].get("sha256") for split in SPLITS):
        lines += _section("documents by id", list(_compare_ids(project, cached, revision)))
    return lines


def compare_sources(old: Version, new: Version) -> list[str]:
    """Return which sources and benchmarks came, went or changed their hash or licence."""
    lines = []
    for kind in ("sources", "benchmarks"):
        before, after = _sources(old.params, kind), _sources(new.params, kind)
        for name in [*before, *(name for name in after if name not in before)]:
            label = name if kind == "sources" else f"{name} (benchmark)"
            if name not in after:
                lines.append(f"- {label}")
            elif name not in before:
                lines.append(f"+ {label}: {', '.join(f'{key} {value}' for key, value in after[name].items())}")
            else:
                changes = [
                    f"{key} {before[name].get(key, 'none')} → {after[name].get(key, 'none')}"
                    for key in [*after[name], *(key for key in before[name] if key not in after[name])]
                    if before[name].get(key) != after[name].get(key)
                ]
                lines += [f"~ {label}: {change}" for change in changes]
    return lines


def compare_settings(old: Json, new: Json) -> list[str]:
    """Return the settings that decide the data and differ; one that is missing is `none`."""
    before, after = _settings(old), _settings(new)
    return [
        f"{key}: {before.get(key, 'none')} → {after.get(key, 'none')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def compare_figures(old: Json, new: Json, keys: tuple[str, ...]) -> Iterator[str]:
    """Yield a line for each split, and each source of it, of which a count changed."""
    for split in SPLITS:
        before, after = ({"": figures[split]} | figures[split].get("by_source", {}) for figures in (old, new))
        for source in [*before, *(name for name in after if name not in before)]:
            pairs = {key: (before.get(source, {}).get(key, 0), after.get(source, {}).get(key, 0)) for key in keys}
            if any(one != other for one, other in pairs.values()):
                changes = (f"{key} {one:,} → {other:,} ({other - one:+,})" for key, (one, other) in pairs.items())
                yield f"{split}{source and ' ' + source}: {', '.join(changes)}"


def count_changes(old: Iterable[str], new: Iterable[str]) -> tuple[int, int, int]:
    """Return how many ids were added, removed and stayed. Eight bytes are kept of each."""
    before, after = (np.unique(np.fromiter(map(_number, ids), np.uint64)) for ids in (old, new))
    same = len(np.intersect1d(before, after, assume_unique=True))
    return len(after) - same, len(before) - same, same


def _compare_ids(project: Path, cached: Open, revision: str) -> Iterator[str]:
    def here(path: Path) -> Path | None:
        return project / path if (project / path).exists() else None

    fetch = f"`dvc fetch --all-commits {paths.DOCUMENTS}`"
    for open_file, whose, hint in ((cached, revision, fetch), (here, "the working tree", "`dvc pull`")):
        if any(path is None for _, path in _document_files(open_file)):
            yield f"the documents of {whose} are not at hand; {hint} brings them if a DVC remote has them"
            return
    for split in SPLITS:
        added, removed, same = count_changes(_ids(cached, split), _ids(here, split))
        yield f"{split}: {added:,} added, {removed:,} removed, {same:,} the same"


def _document_files(open_file: Open) -> Iterator[tuple[str, Path | None]]:
    """Yield (split, path) of the files that documents.json lists; a path of None for what is missing."""
    if (described := open_file(paths.DOCUMENTS / "documents.json")) is None:
        yield "", None
        return
    listed = json.loads(described.read_text(encoding="utf-8"))
    for split in SPLITS:
        # Before there were several files of a split, none was listed.
        for entry in listed[split].get("files", [{"file": f"{split}.jsonl"}]):
            yield split, open_file(paths.DOCUMENTS / entry["file"])


def _ids(open_file: Open, wanted: str) -> Iterator[str]:
    for split, path in _document_files(open_file):
        if split == wanted and path is not None:
            with path.open("rb") as file:
                for line in file:
                    yield orjson.loads(line)["id"]


def _hashes(lock: Json) -> dict[Path, str]:
    """Return the hashes of what dvc.lock's stages wrote."""
    return {Path(out["path"]): out["md5"] for stage in lock.values() for out in stage.get("outs", []) if "md5" in out}


def _find_cached(project: Path, lock: Json) -> Open:
    """Return what finds documents and counts in DVC's cache, by the hashes of dvc.lock's stages."""
    if not (hashes := _hashes(lock)):
        return lambda path: None
    from dvc.repo import Repo  # takes a second

    with Repo(str(project)) as repo:
        cache = repo.cache.local

        def find(path: Path) -> Path | None:
            found = Path(cache.oid_to_path(hashes[path])) if path in hashes else None
            return found if found and found.exists() else None

        listing = find(paths.DOCUMENTS)
        for entry in json.loads(listing.read_text(encoding="utf-8")) if listing else []:
            hashes[paths.DOCUMENTS / entry["relpath"]] = entry["md5"]
    return find


@dataclass(frozen=True)
class _Reader:
    """Reads the files of a version and raises `UserError` for what it cannot use."""

    read: Callable[[Path], str | None]
    name: str
    hint: str

    def params(self) -> Json:
        keys = ("fetch", *_SETTINGS[:3])
        if (text := self.read(PARAMS_FILE)) is None:
            raise self.lacks(PARAMS_FILE)
        return self.parse(PARAMS_FILE, text, parse_yaml, keys)

    def lock(self) -> Json:
        """Return the stages of dvc.lock, nothing if there is none."""
        path = Path("dvc.lock")
        text = self.read(path)
        return {} if text is None else self.parse(path, text, parse_yaml, ("stages",))["stages"]

    def counts(self, path: Path, text: str) -> Json:
        return self.parse(path, text, json.loads, SPLITS)

    def parse(self, path: Path, text: str, parse: Callable[[str], Any], keys: Iterable[str]) -> Json:
        try:
            value = parse(text)
        except (YAMLError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{self.name}: {path} cannot be read ({reason}); {self.hint}") from None
        if missing := [key for key in keys if not isinstance(value, dict) or not isinstance(value.get(key), dict)]:
            raise UserError(f"{self.name}: {path} has no {', '.join(missing)}; {self.hint}")
        return value

    def lacks(self, path: Path) -> UserError:
        return UserError(f"{self.name}: has no {path}; {self.hint}")


def _read_here(reader: _Reader) -> Version:
    def counts(path: Path) -> Json:
        text = reader.read(path)
        return {} if text is None else reader.counts(path, text)

    return Version(reader.params(), counts(paths.PREPARE_COUNTS), counts(paths.TOKENIZE_COUNTS), reader.lock())


def _read_committed(reader: _Reader, lock: Json, cached: Open) -> Version:
    noted = _hashes(lock)

    def counts(path: Path) -> Json:
        if found := cached(path):
            return reader.counts(path, found.read_text(encoding="utf-8"))
        if path in noted:
            fetch = f"`dvc fetch --all-commits {path}` brings it if a DVC remote has it"
            raise UserError(f"{reader.name}: {path} is not at hand; {fetch}")
        text = reader.read(path)
        if text is None and (text := reader.read(_BEFORE[path])) is None:
            raise reader.lacks(path)
        return reader.counts(path, text)

    return Version(reader.params(), counts(paths.PREPARE_COUNTS), counts(paths.TOKENIZE_COUNTS), lock)


def _sources(params: Json, kind: str) -> dict[str, Json]:
    """Return by name what identifies a source. Revisions may be older than today's params.yaml."""
    listed = {source["name"]: source for source in params["fetch"].get(kind, [])}
    return {
        name: {key: str(source[key]) for key in ("sha256", "revision", "licence") if key in source}
        for name, source in listed.items()
    }


def _settings(params: Json) -> dict[str, str]:
    """Return settings that decide the data as JSON by their key."""
    found: dict[str, str] = {}

    def add(key: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for name, item in value.items():
                add(f"{key}.{name}", item)
        else:
            found[key] = json.dumps(value, ensure_ascii=False)

    for key in _SETTINGS:
        value: Any = params
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            add(key, value)
    return {key: value for key, value in found.items() if not key.startswith(_ELSEWHERE)}


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"{title}: the same"] if not lines else [title, *(f"  {line}" for line in lines)]


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _commit(project: Path, revision: str) -> str:
    try:
        git.find_repository(project)
    except git.NoRepository as error:
        raise UserError(f"versions of data are git revisions, but {error}") from None
    if (commit := git.find_commit(project, revision)) is None:
        here = " in this shallow clone; `git fetch --unshallow` brings the rest" if git.is_shallow(project) else ""
        raise UserError(f"{revision}: no revision that git knows{here}; `git log --oneline` shows them")
    return commit


def _show(project: Path, commit: str, path: Path) -> str | None:
    """Return a file of a commit, named from the project's folder, None if it has none."""
    data = git.read_file(project, commit, path)
    return None if data is None else data.decode(errors="replace")
