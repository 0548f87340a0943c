"""`gpt data add`: from where a text is to a source in params.yaml, fixed by its hash or commit, with its licence."""

import re
from collections.abc import Mapping
from pathlib import Path

from gpt import paths
from gpt.errors import UserError, located
from gpt.params.changes import editing
from gpt.params.changes.editing import Values, read_sources, set_in_source, write_text
from gpt.params.project import parse_params
from gpt.params.sources import NOT_STATED
from gpt.sources.hidden import split_pattern
from gpt.sources.kinds import Chosen, choose_kind, format_of
from gpt.sources.local import find_files
from gpt.sources.manifests import manifest_file, write_manifest
from gpt.sources.pinning import find_pin, validated
from gpt.sources.stores import hub
from gpt.sources.stores.address import HubAddress, parse_hub_address


def add_source(
    path: Path, where: str, *, name: str | None = None, licence: str | None = None, members: tuple[str, ...] = ()
) -> list[str]:
    """Write a source into a params.yaml: files of a path, behind a URL, or of a data set on the hub. Return lines that tell of it.

    Raises `UserError`, with the file as it was, for what cannot be read, is there already, or has a name that is taken.
    """
    values, left_out = describe_source(where, name=name, licence=licence, members=members)
    text = path.read_text(encoding="utf-8")
    for each in read_sources(text)["sources"]:
        if all(each.get(key) == values[key] for key in _place_of(values)):
            raise UserError(f"{path}: fetch.sources {each.get('name')} is that already; `gpt data hash {each.get('name')}`"
                            " writes what it is now")  # fmt: skip
    new = editing.add_source(text, values)
    number = len(read_sources(new)["sources"]) - 1
    parse_params(path, _with_pin(new, values))  # before anything is fetched: a wrong name, a secret in the address
    pin = find_pin(validated(values, path, f"fetch.sources.{number}"), values)
    new = set_in_source(new, values["name"], {pin.key: pin.value})
    if pin.files is not None:
        write_manifest(values["name"], pin.files)
    write_text(path, new)
    shown = (f"  {key}: {each}" for key, each in (values | {pin.key: pin.value}).items())
    lines = [f"{path}: fetch.sources {values['name']}: added", *shown, *([left_out] if left_out else [])]
    if pin.files is not None:
        lines.append(f"{manifest_file(values['name'])}: {len(pin.files)} files; `git add` it with params.yaml")
    if values["licence"] == NOT_STATED:
        lines.append("write into its licence what allows you to use it: the data card and every version's page show it")
    return lines


def describe_source(
    where: str, *, name: str | None = None, licence: str | None = None, members: tuple[str, ...] = ()
) -> tuple[Values, str]:
    """Return the values of a source without what fixes it, of one on the hub with its commit and the licence of its card.

    And, of a folder or data set with files of several kinds, which are left out, and how they are added.
    """
    if where.startswith("hf://"):
        if members:
            raise UserError("--member: is for archives; the files of a data set are named in hf://OWNER/NAME/PATTERN")
        return _describe_data_set(parse_hub_address(where), name, licence)
    licence = licence or NOT_STATED
    if "://" in where:
        place = where.split("?")[0]
        many: Values = {"members": list(members)}
        return {"name": name or _name_of(place), "kind": "url", "url": where, **many, "licence": licence}, ""
    if members:
        raise UserError("--member: is for archives behind a URL; write file:///… for one on this disk")
    path = Path(where)
    if (found := find_files(path.expanduser())) is None or not found.names:
        raise UserError(
            f"{where}: {'not found' if found is None else 'holds no file'}; name a file, a folder or a pattern"
        )
    if not found.is_one and paths.RAW.resolve().is_relative_to(found.folder.resolve()):
        raise UserError(
            f"{where}: holds {paths.RAW}, where `gpt fetch` would copy it to; name a folder beside that one"
        )
    inside = path.is_absolute() and path.is_relative_to(Path.cwd())
    shown = path.relative_to(Path.cwd()) if inside else path
    with located(where):
        pattern, left_out = choose_local(path.expanduser(), str(shown))
    return {
        "name": name or _name_of(where),
        "kind": "local",
        "path": pattern or str(shown),
        "licence": licence,
    }, left_out


def choose_local(path: Path, shown: str) -> tuple[str, str]:
    """Return a pattern for a folder, or a pattern, that holds also what cannot be read, "" if all can be; and what is left out.

    `shown` is the path as it is to be written.
    """
    found = find_files(path)
    if found is None or found.is_one or not any(map(format_of, found.names)):  # prepare.read.format may say what it is
        return "", ""
    asked = "*" if path.is_dir() else split_pattern(path.as_posix())[1]
    sizes = {name: (found.folder / name).stat().st_size for name in found.names if (found.folder / name).exists()}
    chosen = choose_kind(asked, sizes, all_that_can_be_read=True)
    if chosen.pattern == asked:
        return "", ""
    folder = (shown if path.is_dir() else split_pattern(shown)[0]).rstrip("/")
    return f"{folder}/{chosen.pattern}", chosen.told(folder)


def _describe_data_set(address: HubAddress, name: str | None, licence: str | None) -> tuple[Values, str]:
    commit = hub.find_commit(address.repository, address.revision)
    files = {path: file.size for path, file in hub.list_files(address.repository, commit).items()}
    with located(address.repository):
        chosen = choose_in_data_set(address, files)
    values: Values = {
        "name": name or _name_of(address.repository),
        "kind": "huggingface",
        "repository": address.repository,
        "revision": commit,
        "patterns": [chosen.pattern],
        "licence": licence or hub.find_licence(address.repository, commit) or NOT_STATED,
    }
    return values, chosen.told(f"hf://{address.repository}")


def choose_in_data_set(address: HubAddress, sizes: Mapping[str, int]) -> Chosen:
    """Return the files, of `sizes` (bytes by path), that an address means; raise `UserError` if it means none that can be read."""
    pattern = address.pattern_in(sizes) or "*"
    hub.choose(sizes, (pattern,))
    return choose_kind(pattern, sizes)


def _name_of(place: str) -> str:
    """Return a name for what lies at a path or an address: that of its file, or of the folder in which its pattern begins."""
    before = place.split("*")[0]
    parts = [
        part
        for part in (before.rpartition("/")[0] if "*" in place else before).split("/")
        if part not in ("", ".", "..")
    ]
    last = parts[-1] if parts else Path.cwd().name
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", last.partition(".")[0] or last).strip("-_")
    return name or "texts"


def _place_of(values: Values) -> list[str]:
    return [key for key in values if key not in ("name", "licence")]


def _with_pin(text: str, values: Values) -> str:
    """Return the text with a hash that nothing has, in which everything else can be checked."""
    return text if values["kind"] == "huggingface" else set_in_source(text, values["name"], {"sha256": "0" * 64})
