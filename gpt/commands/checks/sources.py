"""The sources of params.yaml: whether the user's own files, and lists of files, are those that it was written for."""

from collections.abc import Iterator

from gpt.commands.checks.finding import Finding
from gpt.errors import UserError


def sources() -> Iterator[Finding]:
    """Look at what is on this machine; what is elsewhere `gpt fetch` sees, and settings that are not valid another check."""
    from pathlib import Path

    from gpt.params.project import PARAMS_FILE, load_params
    from gpt.params.sources import LocalSource, UrlSource
    from gpt.sources.local import check_content
    from gpt.sources.manifests import read_manifest

    try:
        fetched = load_params(Path(PARAMS_FILE)).fetch.by_name()
    except UserError:
        return
    changed = False
    for name, source in fetched.items():
        difference = None
        try:
            match source:
                case LocalSource():
                    difference = check_content(source)
                case UrlSource() if source.is_many:
                    read_manifest(name, source.sha256)
                case _:
                    pass
        except UserError as error:
            difference = str(error)
        else:
            if difference:
                difference += f"; if that is what you want, `gpt data hash {name}` writes it into {PARAMS_FILE}"
        if difference:
            changed = True
            yield "missing", f"source {name}", difference
    if not changed:
        own = sum(isinstance(source, LocalSource) for source in fetched.values())
        yield "ok", "sources", f"{len(fetched)}, of which {own} are files of your own, as {PARAMS_FILE} says"
