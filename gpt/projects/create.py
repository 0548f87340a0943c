"""`gpt init`: a project around a text, in a new folder. It asks nothing, and says what it did and chose.

A project holds settings, not code: its stages run the installed package, whose code counts by hashes for each stage (`gpt inputs`).
"""

import getpass
import os
import re
import shlex
from pathlib import Path, PurePath
from typing import Any

import gpt
from gpt import git
from gpt.errors import UserError, located
from gpt.params.changes.lines import read_entries, set_value
from gpt.params.project import PARAMS_FILE, parse_params
from gpt.params.sources import NOT_STATED
from gpt.projects.choices import Choice, choose, named
from gpt.projects.place import build_in, finish, is_hidden_folder
from gpt.projects.survey import Survey, survey
from gpt.projects.templates import WITHOUT_GIT, Template, deployments, dvc_files, file_of, load_template, stages
from gpt.sources.adding import choose_local
from gpt.sources.local import content_hash

OUTPUTS = ("data", "models", "metrics", "plots", "reports", "checkpoints", "spool", "mlartifacts")
"Folders that the stages of a project write to."
_WIDTH = 10


def create(folder: Path, template_name: str, data: str | None, name: str | None) -> list[str]:
    """Make a project in a folder that is new, or holds nothing but the text; return what was done and chosen, in lines.

    `data` is a file, a folder, or hf://OWNER/NAME; None takes the text of the template. Raises `UserError`, with nothing written,
    for a folder that holds other files, a wrong name, or text that is none, too little or cannot be read; and for a project that
    was killed when all of it was written, which is in its place then.
    """
    if finish(folder):
        raise UserError(
            f"{folder}: an earlier `gpt init` was killed on its way; it is finished now, this is its project"
        )
    template = load_template(template_name)
    name = _name(folder, name)
    text = None if data is None or data.startswith("hf://") else Path(data)
    _check_folder(folder, text)
    if text:
        choices, about = _of_a_text(template, folder, text, name)
    elif address := data or template.text:
        choices, about = _of_the_hub(template, address, name, is_asked_for=data is not None)
    else:
        choices, about = named(name), ["the template's own text"]
    settings = _settings(template, choices, about[0])
    parse_params(PARAMS_FILE, _with_commits(settings))
    inside = text.resolve().relative_to(folder.resolve()) if text and _is_inside(text, folder) else None
    files = _files(settings, template, name, inside)
    with build_in(folder) as place:
        for path, content in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(content, encoding="utf-8")
        in_git = _into_git(place, list(files))
    return _told(folder, template, files, about, choices, in_git)


def _name(folder: Path, given: str | None) -> str:
    """Return the project's name: what was given, else that of the folder with - for what names may not hold."""
    if given is not None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", given):
            raise UserError(
                f"--name {given}: must be letters, digits, '.', '_' and '-', and begin with a letter or digit:"
                " experiment and model are called so"
            )
        return given
    of_folder = folder.resolve().name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", of_folder).strip("._-")
    if not name:
        raise UserError(f"{of_folder}: no name for a model can be made of the folder's; give one with --name")
    return name


def _check_folder(folder: Path, text: Path | None) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a new folder")
    if text and _is_inside(folder, text):
        raise UserError(
            f"--data {text}: holds the project's folder {folder}, whose outputs would become its text; name one beside it"
        )
    within = text.resolve().relative_to(folder.resolve()).parts[0] if text and _is_inside(text, folder) else None
    if within in OUTPUTS:
        raise UserError(
            f"--data {text}: the project's stages write to its folder {within}; give the text's folder another name"
        )
    others = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [
        each for each in others if each not in (within, ".git", ".venv", ".DS_Store") and not is_hidden_folder(each)
    ]
    if PARAMS_FILE.name in others:
        raise UserError(f"{folder}: is a project already; `gpt init --upgrade` in it shows what a newer template has")
    if others:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise UserError(f"{folder}: is not empty ({shown}); name a new folder, or one that holds nothing but the text")


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _of_a_text(template: Template, folder: Path, text: Path, name: str) -> tuple[list[Choice], list[str]]:
    params = parse_params(PARAMS_FILE, template.settings)
    with located(f"--data {text}"):
        place, left_out = choose_local(text, _place(folder, text))
    pattern = PurePath(place).name
    found = survey(text / pattern, params.prepare)
    source = _source(folder, text, pattern)
    return choose(template, params, found, source, name), [_size(found), *([left_out] if left_out else [])]


def _of_the_hub(template: Template, address: str, name: str, *, is_asked_for: bool) -> tuple[list[Choice], list[str]]:
    """Return what is chosen for a text of the hub. A template's own needs no network: its commit may be found later."""
    from gpt.projects.hub import look_at_hub, unresolved

    params = parse_params(PARAMS_FILE, template.settings)
    try:
        text = look_at_hub(address, params.prepare)
    except UserError as error:
        if is_asked_for:
            raise
        source = unresolved(address)
        later = (
            f"{error}; once the hub can be asked, `gpt data hash {source['name']}` writes the commit into params.yaml"
        )
        return [*named(name), Choice("fetch.sources", [source])], [address, later]
    if text.found is None:
        return [*named(name), Choice("fetch.sources", [text.source])], [text.told]
    return choose(template, params, text.found, text.source, name), [_size(text.found), text.told]


def _size(found: Survey) -> str:
    about = "about " if found.is_estimate else ""
    documents = f"{about}{found.documents:,} document{'s'[: found.documents != 1]}"
    return f"{about}{found.text_bytes:,} bytes of text in {documents}, {found.files:,} file{'s'[: found.files != 1]}"


def _source(folder: Path, text: Path, pattern: str) -> dict[str, Any]:
    """Return the source of a text, or of those of its files that a pattern means."""
    return {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", text.resolve().name.partition(".")[0]).strip("._-") or "text",
        "kind": "local",
        "path": str(Path(_place(folder, text), pattern)),
        "sha256": content_hash(text / pattern),
        "licence": NOT_STATED,
    }


def _place(folder: Path, text: Path) -> str:
    """Return where a text is: from the project's folder where it lies in it or beside it, else from the root."""
    relative = os.path.relpath(text.resolve(), folder.resolve())
    return str(text.resolve()) if relative.startswith(f"..{os.sep}..") else relative


def _settings(template: Template, choices: list[Choice], about: str) -> str:
    """Return the project's params.yaml: the template's, with what was chosen and a line that says what made it."""
    text = template.settings
    for choice in choices:
        text = set_value(text, choice.key, choice.value, choice.comment or None)
    made = f"# Made by `gpt init --template {template.name}` of gpt {gpt.__version__} for {about}.\n"
    return template.head + made + text.removeprefix(template.head)


def _with_commits(settings: str) -> str:
    """Return settings that are valid once the hub says at which commit its sources are."""
    sources = [
        source if source["kind"] != "huggingface" else {"revision": "0" * 40} | source
        for source in read_entries(settings)["fetch.sources"].value
    ]
    return set_value(settings, "fetch.sources", sources)


def _files(settings: str, template: Template, name: str, text: Path | None) -> dict[str, str]:
    """Return the project's files by their paths in it; `text` lies in it, and is none of git's."""
    ignored = file_of("gitignore")
    if text:
        ignored += f"# The text itself: DVC keeps what `gpt fetch` takes of it.\n{git.ignore_pattern(text)}\n"
    return {
        "params.yaml": settings,
        "dvc.yaml": stages(),
        "prefect.yaml": deployments(),
        "README.md": file_of("README.md").format(name=name, template=template.name),
        ".gitignore": ignored,
        ".dvcignore": file_of("dvcignore"),
        **dvc_files(),
    }


def _into_git(folder: Path, files: list[str]) -> str:
    """Make the folder a git repository with a first commit if it lies in none; return what was done."""
    try:
        top = git.find_repository(folder)
    except git.NoRepository:
        pass
    else:
        named = shlex.join(files)
        return f"in the repository {top}, not committed: git add {named} && git commit"
    try:
        git.ask(folder, "-c", "init.defaultBranch=main", "init", "--quiet", "--template=")
    except git.NoRepository:  # there is no git
        for path, content in WITHOUT_GIT.items():
            (folder / path).write_text(content, encoding="utf-8")
        return (
            "is not installed: DVC works without it here (.dvc/config.local), but a model's version will name no commit"
        )
    git.ask(folder, "add", "--", *files)
    identity = [] if _knows_who(folder) else ["-c", f"user.name={getpass.getuser()}", "-c", "user.email=gpt@localhost"]
    git.ask(folder, *identity, "-c", "commit.gpgsign=false", "commit", "--quiet", "-m", "Begin, by gpt init")
    commit = git.find_commit(folder) or ""
    who = f", by {getpass.getuser()} <gpt@localhost> as git knows no user.name and user.email" if identity else ""
    return f"new repository, first commit {commit[:7]}{who}"


def _knows_who(folder: Path) -> bool:
    """Whether git knows whose commits these are."""
    try:
        return all(git.ask(folder, "config", key).strip() for key in ("user.name", "user.email"))
    except UserError:
        return False


def _told(
    folder: Path, template: Template, files: dict[str, str], about: list[str], choices: list[Choice], in_git: str
) -> list[str]:
    """Return the summary: what was made and chosen, and what to do next."""

    def line(subject: str, text: str) -> str:
        return f"{subject:<{_WIDTH}} {text}"

    costs = next(each for each in template.head.splitlines() if "Costs:" in each).removeprefix("# Costs: ")
    told = [
        line("made", f"{folder}/: {', '.join(files)}"),
        line("template", template.purpose),
        line("costs", costs),
        *(line("text", each) for each in about),
    ]
    told += [line("chosen", f"{choice.key}: {choice.told}") for choice in choices if choice.told]
    there = os.path.relpath(folder)
    steps = [] if there == "." else [f"cd {shlex.quote(there)}"]
    steps += ["python -m flows.pretrain    all stages, then the model is registered (dvc repro: the stages alone)"]
    return [
        *told,
        line("git", in_git),
        *(line("next" if number == 0 else "", each) for number, each in enumerate(steps)),
    ]
