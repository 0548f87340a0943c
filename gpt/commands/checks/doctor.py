"""`gpt doctor`: what this machine has for training, and what to do about what is missing. What it looks at is beside it."""

from collections.abc import Iterator

import click

from gpt.commands.checks.finding import Finding
from gpt.commands.line.command import command
from gpt.errors import UserError

_MARKS = {"ok": "✓", "note": "·", "missing": "✗"}
_REPAIR = "`gpt doctor --repair` does it"


@command(examples=["gpt doctor", "gpt doctor --repair  # after a crash, or every night"])
@click.option(
    "--repair",
    is_flag=True,
    help="put right what killed processes have left: runs that MLflow calls running, locks of DVC, what is not delivered",
)
def doctor(repair: bool) -> int:
    """say what this machine has and what is missing; --repair puts right what is not true any more"""
    if repair:
        return _repair()
    from gpt.commands.checks import disclosure, machine, packages, project, servers, sources, store, training
    from gpt.secrets.hiding import redact

    findings = [
        *packages.packages(),
        *machine.machine(),
        *machine.accelerators(),
        *project.repository(),
        *project.places(),
        *store.spool(),
        *store.artifacts(),
        *servers.servers(),
        *project.settings(),
        *sources.sources(),
        *disclosure.uploads(),
        *training.environment(),
        *_troubles(),
    ]
    width = max(len(subject) for _, subject, _ in findings)
    for kind, subject, text in findings:
        print(f"{_MARKS[kind]} {subject:<{width}}  {redact(text)}")
    missing = sum(kind == "missing" for kind, _, _ in findings)
    print(f"{missing} thing(s) to put right, marked ✗" if missing else "Everything that is needed is here.")
    return 2 if missing else 0


def _troubles() -> Iterator[Finding]:
    """Yield what `--repair` would do; journals that wait, and servers that are away, are told by other checks."""
    from gpt.maintenance.repair import find
    from gpt.params.project import load_params

    try:
        params = load_params()
    except UserError:  # told among the project's findings
        return
    for trouble in find(params):
        if trouble.remedy is None:
            if not trouble.is_server:
                yield "note", trouble.subject, trouble.text
        elif trouble.subject != "spool":
            yield "note", trouble.subject, f"{trouble.text}; {_REPAIR}"


def _repair() -> int:
    """Put right what can be, a line each; return 0 if all is true then."""
    from gpt.maintenance.repair import find
    from gpt.params.project import load_params
    from gpt.secrets.hiding import redact

    params = load_params()
    is_true, done = True, 0
    for trouble in find(params):  # one after the other: what was ended is delivered then
        if trouble.remedy is None:
            mark, text = ("✗" if trouble.is_wrong else "·"), trouble.text
            is_true &= not trouble.is_wrong
        else:
            try:
                text = trouble.remedy()
                mark, done = "✓", done + bool(text)
            except (UserError, OSError) as error:
                mark, text, is_true = "✗", f"{trouble.text}; not done: {error}", False
        if text:
            print(redact(f"{mark} {trouble.subject}: {text}"), flush=True)
    if is_true:
        print("Nothing was to be put right." if not done else "All is true now.")
    return 0 if is_true else 1
