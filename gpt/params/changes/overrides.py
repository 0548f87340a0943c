"""Changes to params.yaml as `dvc exp run -S` takes them, tried out before DVC starts: what is wrong is told in our one message.

They are applied by the code by which DVC applies them (Hydra's), to a copy.
"""

import difflib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt.errors import UserError
from gpt.files import parse_yaml
from gpt.params.project import PARAMS_FILE, load_params, parse_params
from gpt.secrets.hiding import redact

_EXAMPLE = "write KEY=VALUE, as in train.max_steps=50"


def check_overrides(overrides: Sequence[str], path: Path = PARAMS_FILE) -> int:
    """Return how many experiments these changes make: one, or one for each combination of the values in `KEY=1,2,4`.

    Raises `UserError` for a change that is no KEY=VALUE, a key that params.yaml has not got, or a value that is not allowed.
    """
    load_params(path)
    known = known_keys(path)
    for override in overrides:
        _check_key(override, known)
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides, get_hydra_sweeps
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        sweeps = [sweep[path.name] for sweep in get_hydra_sweeps({path.name: list(overrides)})]
        for sweep in sweeps:
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder, path.name)
                shutil.copyfile(path, copy)
                apply_overrides(copy, list(sweep))
                parse_params(path, copy.read_text(encoding="utf-8"))
    except (DvcException, HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(f"-S {redact(' '.join(overrides))}: {redact(reason)}; {_EXAMPLE}") from None
    return len(sweeps)


def known_keys(path: Path = PARAMS_FILE) -> Mapping[str, Any]:
    """Return every key of a params.yaml that is valid YAML, sections and lists among them, with its value."""
    values = parse_yaml(path.read_text(encoding="utf-8"))
    known: dict[str, Any] = {}

    def add(key: str, value: Any) -> None:
        known[key] = value
        for name, item in value.items() if isinstance(value, dict) else ():
            add(f"{key}.{name}", item)

    for section, items in values.items():
        add(section, items)
    return known


def guess_key(key: str, known: Mapping[str, Any]) -> str:
    """Return what to tell of a key that is none of the known ones: which was meant perhaps."""
    near = difflib.get_close_matches(key, known, n=1) or [each for each in known if each.endswith(f".{key}")][:1]
    return f"did you mean {near[0]}?" if near else f"the keys of {PARAMS_FILE} are those"


def _check_key(override: str, known: Mapping[str, Any]) -> None:
    key, equals, _ = override.partition("=")
    key = key.strip().lstrip("+~")
    if not key or (not equals and not override.startswith("~")):
        raise UserError(f"-S {redact(override)}: {_EXAMPLE}")
    if override.startswith("+") or key in known:
        return
    raise UserError(f"{PARAMS_FILE}: {redact(key)} is not a known key; {guess_key(key, known)}")
