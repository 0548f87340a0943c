"""`gpt doctor`: what this machine has for training, and what to do about what is missing. What it looks at is beside it."""

from gpt.commands.line.command import command

_MARKS = {"ok": "✓", "note": "·", "missing": "✗"}


@command(examples=["gpt doctor"])
def doctor() -> int:
    """say what this machine has and what is missing"""
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
    ]
    width = max(len(subject) for _, subject, _ in findings)
    for kind, subject, text in findings:
        print(f"{_MARKS[kind]} {subject:<{width}}  {redact(text)}")
    missing = sum(kind == "missing" for kind, _, _ in findings)
    print(f"{missing} thing(s) to put right, marked ✗" if missing else "Everything that is needed is here.")
    return 2 if missing else 0
