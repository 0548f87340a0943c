"""What of a project leaves this machine with a registered version, looked through for secrets before it does."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from gpt.registry.git import read_code
from gpt.secrets.scanner import Finding, find_in_data, find_in_patch, find_in_settings, refuse

PATCH = "uncommitted.patch"
LOCKS = (Path("dvc.lock"), Path("requirements.lock"))
_WHAT_TO_DO = (
    "a registered version records this: take it out and read it from the environment,"
    " or, if it is in a line that you have removed, commit the removal"
)

_WHAT_TO_DO_WITH_TEXT = (
    "a registered version keeps what it was judged on: take it out of the source of this text, and run `dvc repro`"
)


def check_texts(what: str, texts: Iterable[tuple[str, str]]) -> None:
    """Raise `UserError` with the lines of texts, (id, text) each, that hold a token of a known form or a secret of this machine.

    Words such as `password: …` are no finding: texts are data, which other people wrote.
    """
    refuse([finding for name, text in texts for finding in find_in_data(f"{what} {name}", text)], _WHAT_TO_DO_WITH_TEXT)


def check_uploads(files: Mapping[str, bytes]) -> None:
    """Raise `UserError` with the lines of files, by their names, that seem to hold a secret; `PATCH` is one of git's."""
    findings: list[Finding] = []
    for name, content in files.items():
        if name == PATCH:
            findings += find_in_patch(content)
        else:
            findings += find_in_settings(name, content.decode(errors="replace"))
    refuse(findings, _WHAT_TO_DO)


def check_project(project: Path) -> None:
    """Do the same for what a version of the project would record now, before days of training."""
    files = {path.name: (project / path).read_bytes() for path in LOCKS if (project / path).is_file()}
    check_uploads(files | {PATCH: read_code(project).patch})
