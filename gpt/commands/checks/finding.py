"""What `gpt doctor` found out about one subject."""

from collections.abc import Iterator
from typing import Literal

from gpt.errors import UserError

Finding = tuple[Literal["ok", "note", "missing"], str, str]
"How it is, the subject, and what to say about it: for what is missing, with what to do."


def missing(subject: str, error: UserError) -> Iterator[Finding]:
    """Yield a finding for each line of an error."""
    for line in str(error).splitlines():
        yield "missing", subject, line.removeprefix(f"{subject}: ")
