"""`gpt fetch weights`: what `train.init_from` names, brought to models/initial in one form, so that training depends on bytes.

A recipe's base model is brought by the same functions.

That is a model folder as models/base is, with `source.json` beside it and, if `train.init_optimizer` asks for it, the optimizer's
state. Of scratch it is `source.json` alone.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from gpt import paths
from gpt.errors import UserError
from gpt.files import atomic_folder, read_json, sha256_file, write_json
from gpt.model.convert.huggingface import import_huggingface
from gpt.model.storage import load_model
from gpt.model.transformer import TOKEN_TABLES, GPTConfig
from gpt.params.project import Params
from gpt.params.training import SCRATCH
from gpt.registry.initial.origin import Named, decided_origin, describe_origin, folder_of, named_by_params
from gpt.registry.versions import find, model_folder
from gpt.sources.local import content_hash
from gpt.tokens.tokenizer import tokenizer_id
from gpt.tracking import store
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.fingerprint import Fingerprint, load_fingerprint
from gpt.training.initial import CONFIG, OPTIMIZER, TOKENIZER, WEIGHTS, Tensors, check_initial

_KINDS = (
    "a model folder (config.json, model.safetensors, tokenizer/), a Hugging Face folder (config.json, model.safetensors,"
    " tokenizer.json), or a run's checkpoint below checkpoints/"
)

Json = dict[str, Any]


def bring_weights(params: Params, output: Path = paths.INITIAL) -> Json:
    """Fill the folder `output` with the weights that `train.init_from` names; return what its source.json says.

    Raises `UserError` if they are not there, damaged, of a kind that is not known, or do not fit section `model`.
    """
    return bring(
        named_by_params(params, output),
        lambda folder: check_initial(params, folder, tokenizer=None),  # the project's may be made later
        wants_optimizer=params.train.init_optimizer,
    )


def bring(named: Named, check: Callable[[Path], None], *, wants_optimizer: bool = False) -> Json:
    """Fill `named.output` with the weights that are named, unless it holds them already; return what its source.json says.

    `check` raises `UserError` for a folder whose weights do not fit, and then nothing is changed.
    """
    origin = decided_origin(named) or describe_origin(named)
    if (known := _already_there(origin, wants_optimizer, named.output)) is not None:
        check(named.output)
        return known
    with atomic_folder(named.output) as folder:
        source = origin | _fill(folder, origin, named, wants_optimizer)
        _check_unchanged(origin, named)
        write_json(folder / paths.INITIAL_SOURCE, source)
        if origin["init_from"] != SCRATCH:
            check(folder)
    return source


def _already_there(origin: Json, wants_optimizer: bool, output: Path) -> Json | None:
    """Return what source.json says if `output` holds these very weights, whole; None if it does not."""
    try:
        known = json.loads((output / paths.INITIAL_SOURCE).read_text(encoding="utf-8"))
        same = origin.items() <= known.items() and (known["optimizer"] is not None) == wants_optimizer
        return known if same and sha256_file(output / WEIGHTS) == known["weights_sha256"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _check_unchanged(origin: Json, named: Named) -> None:
    """Raise `UserError` if a folder is not any more what it was when its content was hashed: the copy may be of neither."""
    if origin.get("kind") == "folder" and content_hash(folder_of(Path(origin["path"]))) != origin["content"]:
        raise UserError(
            f"{named.key} = {named.spec}: has changed while it was looked at and copied; run this again"
            " once nothing writes there (of a run that trains, name one of its checkpoints)"
        )


def _fill(folder: Path, origin: Json, named: Named, wants_optimizer: bool) -> Json:
    """Write the weights to the new folder `folder`; return what is known about them."""
    match origin.get("kind"):
        case None:
            return {}
        case "version":
            about = _bring_version(folder, origin["name"], origin["version"], named)
        case _:
            place = folder_of(Path(origin["path"]))
            if checkpoint := _find_checkpoint(place):
                return _bring_checkpoint(folder, checkpoint, wants_optimizer)
            about = _bring_model(folder, place, named)
    if wants_optimizer:
        raise UserError(
            f"params.yaml: train.init_optimizer = true: {origin['init_from']} is a model without its optimizer's state; only a"
            " checkpoint has it (`gpt checkpoints` shows them); set it to false"
        )
    hashes = {"weights_sha256": sha256_file(folder / WEIGHTS), "tokenizer_sha256": tokenizer_id(folder / TOKENIZER)}
    return about | hashes | {"optimizer": None}


def _bring_version(folder: Path, name: str, number: int, named: Named) -> Json:
    client = store.existing_client()
    with store.store_errors():
        version = find(client, name, number)
        if version is None:
            raise UserError(f"{named.key}: there is no models:/{name}/{number} in {client.tracking_uri}")
        shutil.copytree(model_folder(client, version), folder, dirs_exist_ok=True)
    return {
        "uri": f"models:/{name}/{number}",
        "run_id": version.run_id,
        "fingerprint": version.tags.get("fingerprint"),
    }


def _bring_model(folder: Path, place: Path, named: Named) -> Json:
    """Copy a model folder, or convert Hugging Face's."""
    if not (place / CONFIG).is_file():
        raise UserError(f"{named.key} = {place}: holds no {CONFIG}; name {_KINDS}")
    config = read_json(place / CONFIG, f"name {_KINDS}")
    if "model_type" in config:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            converted = Path(temporary, "model")
            import_huggingface(place, converted)
            for path in converted.iterdir():
                path.rename(folder / path.name)
        return {"form": config["model_type"]}
    load_model(place)  # whole, and of its configuration
    for name in (WEIGHTS, CONFIG):
        shutil.copyfile(place / name, folder / name)
    shutil.copytree(place / TOKENIZER, folder / TOKENIZER)
    return {"form": "gpt"}


def _find_checkpoint(place: Path) -> Path | None:
    """Return the checkpoint that a folder is, or the newest of the run whose folder it is; None if it is neither."""
    if (place / checkpoints.MANIFEST).is_file():
        return place
    found = checkpoints.steps(place)
    return found[-1] if found and load_fingerprint(place) else None


def _bring_checkpoint(folder: Path, checkpoint: Path, wants_optimizer: bool) -> Json:
    """Bring weights and the optimizer's state of a run that is not finished, or of its state before the decay."""
    run = load_fingerprint(checkpoint.parent)
    if run is None:
        raise UserError(f"{checkpoint.parent}: has no fingerprint.json, which says what model it is; name {_KINDS}")
    if damage := checkpoints.find_damage(checkpoint):
        raise UserError(f"{checkpoint}: damaged: {damage}; name the one before it")
    if (other := checkpoints.other_format(checkpoint)) is not None:
        raise UserError(
            f"{checkpoint}: of format {other}, which this version of gpt does not read; let the one that wrote it finish the run,"
            " and name its model"
        )
    found = checkpoints.load_whole(checkpoint)
    save_file(found.weights, folder / WEIGHTS)
    write_json(folder / CONFIG, _config_of(run, found.weights).to_dict())
    if wants_optimizer:
        save_file(found.optimizer, folder / OPTIMIZER)
    return {
        "form": "checkpoint",
        "fingerprint": run.id,
        "step": found.step,
        "run": found.state["run"],
        "weights_sha256": sha256_file(folder / WEIGHTS),
        "tokenizer_sha256": run.parts["inputs"][paths.TOKENIZER.as_posix()],
        "optimizer": run.parts["settings"]["train.optimizer"] if wants_optimizer else None,
    }


def _config_of(run: Fingerprint, weights: Tensors) -> GPTConfig:
    """Return the configuration of a run's model; raise `UserError` if this version of gpt has no such model."""
    settings = run.parts["settings"]
    model = {key.removeprefix("model."): value for key, value in settings.items() if key.startswith("model.")}
    try:
        return GPTConfig(vocab_size=_count_tokens(weights, model.get("pad_vocab", 1)), **model)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"run {run.id}: of a model that this version of gpt does not know ({error}); name {_KINDS}"
        ) from None


def _count_tokens(weights: Tensors, pad_vocab: int) -> int:
    """Return the rows of a checkpoint's embedding and head without the padding: the last ones that are zero, if it was padded."""
    tables = [weights[name] for name in TOKEN_TABLES if name in weights]
    rows = len(tables[0])
    padding = 0
    while padding < pad_vocab - 1 and not any(table[rows - padding - 1].any() for table in tables):
        padding += 1
    return rows - padding
