"""The packages of an environment and of a lock, by their names as PyPI compares them."""

import importlib.metadata
from functools import cache

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

OWN = "gpt-pretrain"
"This project's distribution: its code counts by its hash, not by its version."


def installed_packages() -> dict[str, str]:
    """Return the version of each installed distribution but our own, a build's local suffix included, as of the first call."""
    return dict(_installed())


@cache
def _installed() -> dict[str, str]:
    found: dict[str, str] = {
        canonicalize_name(name): distribution.version
        for distribution in reversed(list(importlib.metadata.distributions()))  # of two, the first on the path counts
        if (name := distribution.metadata["Name"])
    }
    found.pop(OWN, None)
    return dict(sorted(found.items()))


def locked_packages(lock: bytes) -> dict[str, str]:
    """Return the versions that a requirements.lock names for this interpreter and machine; {} of bytes that are none."""
    found: dict[str, str] = {}
    for line in lock.decode("utf-8", "replace").splitlines():
        try:
            requirement = Requirement(line.partition("#")[0].split(" --hash")[0].rstrip(" \\"))
        except InvalidRequirement:
            continue  # a comment, an option, a line of hashes
        pinned = [part.version for part in requirement.specifier if part.operator == "=="]
        if pinned and (requirement.marker is None or requirement.marker.evaluate()):
            found[canonicalize_name(requirement.name)] = pinned[0]
    return dict(sorted(found.items()))
