"""What `gpt register` would upload: that no secret is in it. params.yaml is looked through by the check of settings."""

from collections.abc import Iterator
from pathlib import Path

from gpt.commands.checks.finding import Finding, missing
from gpt.errors import UserError


def uploads() -> Iterator[Finding]:
    from gpt.registry.disclosure import check_project

    try:
        check_project(Path.cwd())
        yield "ok", "secrets", "none found in what a version records: uncommitted changes and locks"
    except OSError as error:  # git's index is copied to a temporary folder
        yield "note", "secrets", f"not looked for: {error}"
    except UserError as error:
        yield from missing("secrets", error)
