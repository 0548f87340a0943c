"""params.yaml as frozen, validated settings.

Every setting has a type, a range and a meaning here and a value in params.yaml: there are no defaults in code.
Whatever is wrong is reported before any work, each fault with its key, its value and what is allowed.
"""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, ValidationError, model_validator
from ruamel.yaml.error import YAMLError

from gpt.errors import UserError
from gpt.files import parse_yaml
from gpt.params.corpus import Prepare
from gpt.params.evaluation import Evaluate
from gpt.params.launch import Launch
from gpt.params.registration import Register
from gpt.params.sources import Fetch
from gpt.params.tokens import HuggingFaceTokenizer, TiktokenTokenizer, Tokenize, Tokenizer
from gpt.params.training import Base, Model, Train
from gpt.params.types import Section
from gpt.paths import RECIPES, SWEEPS
from gpt.secrets.hiding import redact
from gpt.secrets.scanner import find_in_settings, refuse

PARAMS_FILE = Path("params.yaml")
_NO_SECRETS = (
    "settings are recorded by DVC, MLflow and the data card: take it out, and give it in the environment"
    " (for a source: ~/.netrc, HF_TOKEN, or FSSPEC_HTTPS and its like)"
)
_OF_SEVERAL_KINDS = ("tokenizer", "task", "method", "pruner")
"Sections of params.yaml, of a recipe or a sweep, whose `kind` decides which keys there are."
_OF_ONE_KIND = ("mixture",)
"Lists whose items have no kind."
MOVED = {
    "launch.precision": "train.precision",
    "prepare.read_by_source": "prepare.by_source",
    "register.max_bits_per_byte": "register.gate.max_bits_per_byte",
    "tokenize.weights": "train.mixture",
}


class Params(Section):
    base: Base
    fetch: Fetch
    prepare: Prepare
    tokenizer: Annotated[Tokenizer | TiktokenTokenizer | HuggingFaceTokenizer, Field(discriminator="kind")]
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
            ("train.mixture", (name for phase in self.train.mixture for name in phase.shares)),
        ):
            if unknown := sorted(set(named) - names):
                raise ValueError(
                    f"{key}: {', '.join(unknown)} is no source of fetch.sources; known are {', '.join(sorted(names))}"
                )
        return self

    @model_validator(mode="after")
    def _every_split_has_a_source(self) -> Self:
        given = {source.name: self.prepare.of(source.name).split for source in self.fetch.sources}
        for split in ("train", "validation", "test"):
            if given and "auto" not in given.values() and split not in given.values():
                raise ValueError(
                    f"prepare.by_source: every source is given as another split than {split} ({_listed(given)}); add one that is"
                    f" given as {split}, or give one as auto"
                )
        return self

    @model_validator(mode="after")
    def _mixed_sources_are_trained_on(self) -> Self:
        for name in (name for phase in self.train.mixture for name, share in phase.shares.items() if share):
            if (split := self.prepare.of(name).split) in ("validation", "test"):
                raise ValueError(
                    f"train.mixture: {name} is given as {split} by prepare.by_source or prepare.split, so none of its tokens are"
                    " trained on; leave it out of the shares, or give it as train or auto"
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
    except FileNotFoundError:
        raise UserError(
            f"{path}: not found in {Path.cwd()} or above; run this in a project's folder, or make one: gpt init DIR"
        ) from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; it must be a file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    return parse_params(path, text)


def parse_params(path: Path, text: str) -> Params:
    """Validate the text of a params.yaml; raise `UserError` as `load_params` does. `path` is what messages name."""
    return parse_values(path, parse_settings(path, text))


def parse_values(path: Path, values: Any) -> Params:
    """Validate the parsed values of a params.yaml; raise `UserError` that names every faulty key."""
    with explained(path):
        return Params.model_validate(values)


def parse_settings(path: Path, text: str) -> Any:
    """Return the values of a file of settings, not yet validated; raise `UserError` if it is no YAML or holds a secret."""
    refuse(find_in_settings(str(path), text), _NO_SECRETS)
    try:
        return parse_yaml(text)
    except (YAMLError, ValueError) as error:  # ValueError: a date that is none
        told = " ".join(str(error).replace('in "<unicode string>", ', "in ").split())
        tab = "; indent with spaces" if "'\\t'" in told else ""
        raise UserError(f"{path}: not valid YAML: {told}{tab}") from None


@contextmanager
def explained(path: Path, rename: Callable[[str], str] = str) -> Iterator[None]:
    """Raise what pydantic finds wrong as one `UserError`, a line for each key, which `rename` may change."""
    try:
        yield
    except ValidationError as error:
        faults = [(rename(_key(fault)), fault) for fault in error.errors(include_url=False)]
        expected = {new for old, new in MOVED.items() if old in dict(faults)}  # missing there is the same fault again
        misspelt = _misspelt(faults)
        expected |= set(misspelt.values())
        shown = [fault for fault in faults if not (fault[0] in expected and fault[1]["type"] == "missing")]
        raise UserError("\n".join(_explain(path, key, fault, misspelt.get(key)) for key, fault in shown)) from None


def _misspelt(faults: list[tuple[str, Any]]) -> dict[str, str]:
    """Return the unknown keys that look like one that is missing in the same section, with that one."""
    missing = [key for key, fault in faults if fault["type"] == "missing"]
    found: dict[str, str] = {}
    for key, fault in faults:
        beside = [each for each in missing if each.rpartition(".")[0] == key.rpartition(".")[0]]
        near = difflib.get_close_matches(key, [each for each in beside if each not in found.values()], n=1, cutoff=0.8)
        if near and fault["type"] == "extra_forbidden" and key not in MOVED:
            found[key] = near[0]
    return found


def _listed(values: dict[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def _key(fault: Any) -> str:
    # After a section of several kinds and a source's number pydantic puts the kind, after a name that is wrong itself [key]: none
    # are keys of the file.
    place = [
        part for number, part in enumerate(fault["loc"]) if number != 1 or fault["loc"][0] not in _OF_SEVERAL_KINDS
    ]
    parts = [
        part
        for of, before, part in zip((None, None, *place), (None, *place), place, strict=False)
        if (not isinstance(before, int) or of in _OF_ONE_KIND) and part != "[key]"
    ]
    return ".".join(str(part) for part in parts)


def _explain(path: Path, key: str, fault: Any, meant: str | None) -> str:
    """One line for one fault: `params.yaml: train.max_steps = -1: …`."""
    value = redact(repr(fault["input"]))  # before it is cut: of half an address nobody sees where its password ends
    shown = value if len(value) <= 60 else value[:57] + "..."
    kind = fault["type"]
    if kind == "missing" and key.startswith("fetch.") and key.endswith((".sha256", ".revision")):
        return f"{path}: {key} is missing; `gpt data hash` finds it and writes it there"
    if kind == "missing" and (any(isinstance(part, int) for part in fault["loc"]) or _is_of_a_file(fault["loc"])):
        return f"{path}: {key} is missing; add it"  # no template has it
    if kind == "missing" and path.parent == RECIPES:
        return f"{path}: {key} is missing; add it: a recipe that `gpt finetune init` writes has it"
    if kind == "missing" and path.parent == SWEEPS:
        return f"{path}: {key} is missing; add it: docs/experiments.md shows a whole file"
    if kind == "missing":
        return f"{path}: {key} is missing; add it: `gpt init --upgrade` shows it as it should be"
    if kind == "union_tag_not_found":
        return f"{path}: {key}.kind is missing; add it (see the comments in params.yaml)"
    if kind == "union_tag_invalid":
        return f"{path}: {key}.kind = {fault['ctx']['tag']!r}: must be one of {fault['ctx']['expected_tags']}"
    if kind == "extra_forbidden" and key in MOVED:
        return f"{path}: {key} = {shown}: the key has moved to {MOVED[key]}; write it there, with a value that is allowed there"
    if kind == "extra_forbidden" and meant:
        return f"{path}: {key} = {shown} is not a known key; did you mean {meant}? It is missing"
    if kind == "extra_forbidden":
        return f"{path}: {key} = {shown} is not a known key; remove it or correct its spelling"
    message = fault["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
    if kind == "value_error" and fault["input"] and isinstance(fault["input"], dict | BaseModel):
        return f"{path}: {key + ': ' if key else ''}{message}"
    return f"{path}: {key or 'the file'} = {shown}: {message[0].lower()}{message[1:]}"


def _is_of_a_file(place: tuple[Any, ...]) -> bool:
    """Whether a key is of a tokenizer that is brought from elsewhere."""
    return place[:1] == ("tokenizer",) and place[1:2] in (("huggingface",), ("tiktoken",))
