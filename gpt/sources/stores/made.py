"""Data that a script of the project makes, in an environment of its own: what it needs need not get on with what the project needs.

What comes out counts by its hash, whatever versions it was made with.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import venv
from contextlib import suppress
from pathlib import Path

from gpt.errors import UserError
from gpt.params.sources import ScriptSource
from gpt.paths import cache_folder
from gpt.sources.stores.cache import cached

_SHOWN_LINES = 12


def made_file(source: ScriptSource) -> Path:
    """Return the verified file that a source's script writes, running it if this machine has not yet."""
    script = Path(source.script)
    if not script.is_file():
        raise UserError(f"script = {script}: there is no such file")

    def make(part: Path) -> None:
        part.unlink(missing_ok=True)
        python = _environment(source.requirements)
        _run([str(python), "-W", "ignore", str(script), str(part)], f"{script} failed")

    return cached(source.sha256, make)


def _environment(requirements: tuple[str, ...]) -> Path:
    """Return the interpreter of an environment that has these requirements, made once on this machine."""
    needed = "\n".join((sys.version, *requirements))
    folder = cache_folder("environments") / hashlib.sha256(needed.encode()).hexdigest()[:32]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as temporary:
            partial = Path(temporary, "environment")
            venv.create(partial, symlinks=True)
            python = str(partial / "bin" / "python")
            # --no-compile: its modules are run once. Ours and not its own pip, so that it needs none.
            command = [
                sys.executable,
                "-m",
                "pip",
                "--python",
                python,
                "install",
                "--quiet",
                "--no-compile",
                *requirements,
            ]
            if requirements:
                _run(command, f"requirements = {', '.join(requirements)}: cannot be installed")
            with suppress(OSError):  # another process was faster
                partial.rename(folder)
    return folder / "bin" / "python"


def _run(command: list[str], failure: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        told = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_SHOWN_LINES:])
        raise UserError(f"{failure} (exit code {done.returncode}):\n{told}")
