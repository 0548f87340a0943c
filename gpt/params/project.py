"""params.yaml as frozen, validated settings.

Every setting has a type, a range and a meaning here and a value in params.yaml: there are no defaults in code.
Whatever is wrong is reported before any work, each fault with its key, its value and what is allowed.
"""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gpt.errors import UserError
from gpt.params.corpus import Prepare
from gpt.params.evaluation import Evaluate
from gpt.params.launch import Launch
from gpt.params.registration import Register
from gpt.params.sources import Fetch
from gpt.params.tokens import Tokenize, Tokenizer
from gpt.params.training import Base, Model, Train
from gpt.params.types import Section
from gpt.secrets.hiding import redact
from gpt.secrets.scanner import find_in_settings, refuse

PARAMS_FILE = Path("params.yaml")
_NO_SECRETS = (
    "settings are recorded by DVC, MLflow and the data card: take it out, and give it in the environment"
    " (for a source: ~/.netrc, or FSSPEC_… as docs/data.md says)"
)
_MOVED = {
    "launch.precision": "train.precision",
    "prepare.read_by_source": "prepare.by_source",
    "register.max_bits_per_byte": "register.gate.max_bits_per_byte",
}


class Params(Section):
    base: Base
    fetch: Fetch
    prepare: Prepare
    tokenizer: Tokenizer
    tokenize: Tokenize
    model: Model
    train: Train
    evaluate: Evaluate
    register_: Annotated[Register, Field(alias="register")]
    launch: Launch

    @model_validator(mode="after")
    def _sources_are_known(self) -> Self:
        names = {source.name for source in self.fetch.sources}
        for key, named in (
            ("prepare.by_source", self.prepare.by_source),
            ("tokenize.weights", self.tokenize.weights),
        ):
            if unknown := sorted(set(named) - names):
                raise ValueError(
                    f"{key}: {', '.join(unknown)} is no source of fetch.sources; known are {', '.join(sorted(names))}"
                )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        launch = self.launch
        sequences = launch.num_processes * launch.num_machines * launch.micro_batch_size
        if self.train.batch_size % sequences:
            raise ValueError(
                f"train.batch_size ({self.train.batch_size}) must be divisible by launch.num_processes × num_machines ×"
                f" micro_batch_size ({launch.num_processes} × {launch.num_machines} × {launch.micro_batch_size} = {sequences})"
            )
        return self

    def section(self, name: str) -> dict[str, Any]:
        """Return one section as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)[name]


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and validate params.yaml; raise `UserError` that names every faulty key, or lines that hold a secret."""
    try:
        text = path.read_text(encoding="utf-8")
        refuse(find_in_settings(str(path), text), _NO_SECRETS)
        # YAML 1.2, as DVC reads it: 1e-3 is a number, `no` is a word, a key given twice is an error.
        values = YAML(typ="safe", pure=True).load(text)
    except FileNotFoundError:
        raise UserError(
            f"{path}: not found in {Path.cwd()} or above; run this in a project's folder, or make one: gpt init DIR"
        ) from None
    except (YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that is none
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; it must be a file") from None
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        faults = [(_key(fault), fault) for fault in error.errors(include_url=False)]
        expected = {new for old, new in _MOVED.items() if old in dict(faults)}  # missing there is the same fault again
        shown = [fault for fault in faults if not (fault[0] in expected and fault[1]["type"] == "missing")]
        raise UserError("\n".join(_explain(path, key, fault) for key, fault in shown)) from None


def _key(fault: Any) -> str:
    # After the number of a source pydantic puts its kind, after a name that is wrong itself [key]: no keys of the file.
    parts = [
        part
        for before, part in zip((None, *fault["loc"]), fault["loc"], strict=False)
        if not isinstance(before, int) and part != "[key]"
    ]
    return ".".join(str(part) for part in parts)


def _explain(path: Path, key: str, fault: Any) -> str:
    """One line for one fault: `params.yaml: train.max_steps = -1: …`."""
    value = redact(repr(fault["input"]))  # before it is cut: of half an address nobody sees where its password ends
    shown = value if len(value) <= 60 else value[:57] + "..."
    kind = fault["type"]
    if kind == "missing":
        return f"{path}: {key} is missing; add it (see the comments in params.yaml)"
    if kind == "extra_forbidden" and key in _MOVED:
        return f"{path}: {key} = {shown}: the key has moved to {_MOVED[key]}; write it there, with a value that is allowed there"
    if kind == "extra_forbidden":
        return f"{path}: {key} = {shown} is not a known key; remove it or correct its spelling"
    message = fault["msg"].removeprefix("Value error, ")
    if kind == "value_error" and fault["input"] and isinstance(fault["input"], dict | BaseModel):
        return f"{path}: {key + ': ' if key else ''}{message}"
    return f"{path}: {key or 'the file'} = {shown}: {message[0].lower()}{message[1:]}"
