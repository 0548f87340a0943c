"""What `gpt doctor` found out about one subject."""

from typing import Literal

Finding = tuple[Literal["ok", "note", "missing"], str, str]
"How it is, the subject, and what to say about it: for what is missing, with what to do."
