"""What a Python file needs to be imported elsewhere: the modules of `gpt` behind it and the distributions behind those.

Read from the source, not from running it: MLflow would load the model and look at what happened to be imported.
Imports inside functions are left out: the code that a model loads with states its imports at the top.
"""

import sys
from pathlib import Path

from gpt.code import distribution_of, files_of, imported_names, installed_version


def needed_modules(script: Path) -> tuple[list[Path], set[str]]:
    """Return the files of `gpt` that importing `script` imports, and the full names that come from other packages."""
    modules: set[Path] = set()
    others: set[str] = set()
    waiting = [script]
    while waiting:
        for name in imported_names(waiting.pop(), inside_functions=False):
            top = name.partition(".")[0]
            if top == "gpt":
                new = set(files_of(name)) - modules
                modules |= new
                waiting += new
            elif top not in sys.stdlib_module_names:
                others.add(name)
    return sorted(modules), others


def pinned_requirements(names: set[str]) -> list[str]:
    """Return `distribution==version` as installed for imported names; a build's local suffix (`+cpu`) is left out."""
    distributions = {distribution_of(name) for name in names}
    return sorted(f"{name}=={installed_version(name)}" for name in distributions if name is not None)
