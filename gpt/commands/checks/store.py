"""What waits in the spool for the MLflow store, and artifacts that do not lie beside a local one. Nothing is changed."""

from collections.abc import Iterator
from pathlib import Path

from gpt import paths
from gpt.commands.checks.finding import Finding
from gpt.errors import UserError


def spool() -> Iterator[Finding]:
    """Say which runs the store has not got, or has refused."""
    from gpt.tracking.spool import is_delivered, read_state

    waiting: list[str] = []
    for journal in sorted(paths.SPOOL.glob("*.jsonl")):
        state = read_state(journal)
        if reason := state.blocked or next(iter(state.refused), ""):
            yield "note", "spool", f"{journal}: refused ({reason}); put it right and run `gpt sync`, or delete the file"
        elif not is_delivered(journal):
            waiting.append(journal.stem)
    if waiting:
        more = f" and {len(waiting) - 3} more" if len(waiting) > 3 else ""
        yield "note", "spool", f"{', '.join(waiting[:3])}{more}: not delivered yet; `gpt sync` or the next run does it"


def artifacts() -> Iterator[Finding]:
    """Say of a local store that was moved or copied where it still looks for artifacts."""
    from gpt.tracking.location import ARTIFACTS, artifacts_folder, find_misplaced
    from gpt.tracking.store import database_file, tracking_uri

    try:
        database = database_file(tracking_uri())
    except UserError:
        return  # told as the server's
    if database is None or not database.exists():
        return
    found = [one for one in find_misplaced(database) if ARTIFACTS in one.old.parts]
    left = {one.old for one in found if one.kind == "models" and one.is_only_there}
    moved = [one for one in found if one.old not in left]
    if moved:
        folders = ", ".join(sorted({str(_folder(one.old)) for one in moved}))
        text = f"{database} was in {folders} before; the next command that uses it lets it name the artifacts beside it"
        yield "note", "artifacts", text
    for folder in sorted({_folder(path) for path in left}):
        here = artifacts_folder(database)
        text = f"{sum(_folder(path) == folder for path in left)} models lie in {folder / ARTIFACTS} only, and are read there"
        yield (
            "note",
            "artifacts",
            f"{text}; to have them here: mkdir -p {here} && cp -rn {folder / ARTIFACTS}/. {here}/",
        )


def _folder(place: Path) -> Path:
    """Return the project's folder that a place was made in."""
    from gpt.tracking.location import ARTIFACTS

    parts = place.parts
    return Path(*parts[: len(parts) - 1 - parts[::-1].index(ARTIFACTS)])
