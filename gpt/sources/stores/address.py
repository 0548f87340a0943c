"""hf://OWNER/NAME[@REVISION][/PATTERN]: how a user names files of a data set on the Hugging Face hub."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from gpt.errors import UserError

_HUB = re.compile(
    r"hf://(?:datasets/)?(?P<repository>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^/]+(?:/pr/\d+)?))?(?:/(?P<pattern>.*))?"
)
_OTHERS = ("hf://models/", "hf://spaces/", "hf://buckets/")


class HubAddress(NamedTuple):
    """The parts of an address."""

    repository: str
    revision: str
    "main, if it names none."
    pattern: str
    "Empty, if it names none; of a folder that ends in / all below it."

    def pattern_in(self, paths: Iterable[str]) -> str:
        """Return the pattern among the files of the data set: a folder means all below it without a / at its end too."""
        is_folder = self.pattern and any(path.startswith(f"{self.pattern}/") for path in paths)
        return f"{self.pattern}/*" if is_folder else self.pattern


def parse_hub_address(where: str) -> HubAddress:
    """Return the parts of an address; raise `UserError` if it is none of a data set."""
    found = _HUB.fullmatch(where)
    if found is None or where.startswith(_OTHERS):
        raise UserError(f"{where}: must be hf://OWNER/NAME of a data set, then @REVISION and /PATTERN if you like")
    pattern = found["pattern"] or ""
    return HubAddress(found["repository"], found["revision"] or "main", pattern + "*" * pattern.endswith("/"))
