"""Registered models for a shell to complete: read from a local store without MLflow, which takes seconds to import."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from click.shell_completion import CompletionItem

from gpt.errors import UserError
from gpt.paths import find_project
from gpt.tracking import store


def registered_models(incomplete: str) -> list[CompletionItem[str]]:
    """Return registered models that begin so, by alias and by version; none where the store is a server, which would take long."""
    if project := find_project(Path.cwd()):
        os.chdir(project)
    try:
        file = store.database_file(store.tracking_uri())
        if file is None or not file.is_file():
            return []
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=0.2)) as database:
            aliases = database.execute("select name, alias from registered_model_aliases order by 1, 2").fetchall()
            versions = database.execute(
                "select name, version from model_versions where current_stage <> 'Deleted_Internal' order by 1, 2"
            ).fetchall()
    except (sqlite3.Error, UserError):  # a shell that waits for a word is no place to tell; the command does
        return []
    uris = [
        *(f"models:/{name}@{alias}" for name, alias in aliases),
        *(f"models:/{name}/{number}" for name, number in versions),
    ]
    uris += sorted({f"@{alias}" for _, alias in aliases})
    return [CompletionItem(uri) for uri in uris if uri.startswith(incomplete)]
