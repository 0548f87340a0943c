"""The weights that a run starts from: the folder models/initial, as `gpt fetch weights` has brought them.

They count by their bytes. `source.json` says where they come from, for the lineage of what is made of them.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gpt import paths
from gpt.errors import UserError
from gpt.files import read_json, sha256_file, sha256_json
from gpt.model.transformer import TOKEN_TABLES, GPTConfig, GPTModel
from gpt.params.project import Params
from gpt.params.training import SCRATCH, Train
from gpt.tokens.tokenizer import tokenizer_id

WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer"
_AGAIN = "run `gpt fetch weights` (or `dvc repro`) first"
# Of section `model`: what another value of changes no weight's meaning. Rows of padding are added or left out (`fit_padding`).
_FREE = ("dropout", "init", "pad_vocab")
# And where positions are computed, their number is free too.
_COMPUTED_POSITIONS = ("rotary", "sinusoidal")

Json = dict[str, Any]
Tensors = dict[str, torch.Tensor]


def read_source(settings: Train, folder: Path = paths.INITIAL) -> Json:
    """Return what source.json says of the weights that `train.init_from` names, nothing for scratch.

    Raises `UserError` if the folder is not there, or holds what other settings have named.
    """
    if settings.init_from == SCRATCH:
        return {}
    source = read_json(folder / paths.INITIAL_SOURCE, _AGAIN, ("init_from", "weights_sha256", "optimizer"))
    if (source["init_from"], source["optimizer"] is not None) != (settings.init_from, settings.init_optimizer):
        raise UserError(
            f"{folder}: holds the weights of train.init_from = {source['init_from']}, and params.yaml now has"
            f" {settings.init_from} (init_optimizer: {str(settings.init_optimizer).lower()}); {_AGAIN}"
        )
    return source


def initial_id(settings: Train, folder: Path) -> str:
    """Return the hash of the weights, their configuration and the optimizer's state; raise `UserError` if a file is damaged."""
    source = read_source(settings, folder)
    hashes = {}
    for name in (WEIGHTS, CONFIG, *([OPTIMIZER] if settings.init_optimizer else [])):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: not found; {_AGAIN}")
        hashes[name] = sha256_file(folder / name)
    if hashes[WEIGHTS] != source["weights_sha256"]:
        raise UserError(f"{folder / WEIGHTS}: damaged (its SHA-256 is not the one in {paths.INITIAL_SOURCE}); {_AGAIN}")
    return sha256_json(hashes)


def check_unchanged(settings: Train, source: Json, folder: Path = paths.INITIAL) -> None:
    """Raise `UserError` if the folder does not hold the weights any more that `source` tells of (`read_source`)."""
    if not source:
        return
    initial_id(settings, folder)  # verifies it
    if read_source(settings, folder) != source:
        raise UserError(
            f"{folder}: holds other weights than those that this run began with; bring these back, and run it again"
        )


def check_initial(params: Params, folder: Path = paths.INITIAL, tokenizer: Path | None = paths.TOKENIZER) -> None:
    """Raise `UserError` that names each setting of `model` that the weights do not have, or that they know other tokens.

    `tokenizer` is the folder of the project's; None where there is none yet.
    """
    source = read_source(params.train, folder)
    if not source:
        return
    name, has = params.train.init_from, read_json(folder / CONFIG, _AGAIN)
    try:
        config = GPTConfig(**has).to_dict()
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{folder / CONFIG}: not a GPTModel's configuration ({error}); {_AGAIN}") from None
    if misfits := describe_misfits(params.section("model"), config):
        raise UserError("\n".join(f"params.yaml: {line}" for line in misfits) + f" (weights of {name})")
    asked = params.train.optimizer
    if source["optimizer"] not in (None, asked):
        raise UserError(
            f"params.yaml: train.optimizer = {asked}: {name} was trained by {source['optimizer']}, and the state of one is none"
            f" of the other; set it to {source['optimizer']}, or train.init_optimizer to false"
        )
    if tokenizer is not None:
        _check_tokens(params, source, folder, tokenizer)


def describe_misfits(model: Json, config: Json) -> list[str]:
    """Return a line for each setting of section `model` that weights of a configuration do not bear: what to set it to."""
    lines = []
    for key, asked in model.items():
        has = config[key]
        if key == "n_kv_head" and (asked or has):
            asked, has = asked or model["n_head"], has or config["n_head"]
        is_free = key in _FREE or (key == "block_size" and config["position"] in _COMPUTED_POSITIONS)
        if asked != has and not is_free:
            ours, theirs = (
                str(value).lower() if isinstance(value, bool) else value for value in (model[key], config[key])
            )
            lines.append(f"model.{key} = {ours}: the weights of train.init_from have {theirs}; set it to that")
    return lines


def _check_tokens(params: Params, source: Json, folder: Path, tokenizer: Path) -> None:
    """Raise `UserError` if the weights were trained with tokens of other ids than the project's tokenizer has."""
    if source.get("tokenizer_sha256") == tokenizer_id(tokenizer):
        return
    if (folder / TOKENIZER).is_dir():
        theirs, ours = (vocabulary(each) for each in (folder / TOKENIZER, tokenizer))
        if theirs == ours:
            return  # cut into tokens by another pattern, but a token's id is the same
        sizes = f"{theirs['vocab_size']} tokens of theirs, {ours['vocab_size']} here"
    else:
        sizes = "another tokenizer than the checkpoint's"
    raise UserError(
        f"params.yaml: tokenizer.kind = {params.tokenizer.kind}: the weights of train.init_from = {params.train.init_from} know"
        f" other tokens than {tokenizer} has ({sizes}), so what they learned would mean nothing; set section `tokenizer` to"
        " what they were trained with, or init_from to scratch"
    )


def vocabulary(folder: Path) -> Json:
    """Return what of a tokenizer's description decides which bytes an id stands for."""
    description = read_json(folder / "tokenizer.json", "run `gpt tokenizer` again")
    return {key: value for key, value in description.items() if key not in ("kind", "pattern")}


def new_model(params: Params, vocab_size: int, folder: Path = paths.INITIAL) -> GPTModel:
    """Return the model that a run begins with: of drawn weights, or of those in `folder`.

    Raises `UserError` if these are not of its shape.
    """
    model = GPTModel(GPTConfig(vocab_size=vocab_size, **params.section("model")))
    if params.train.init_from == SCRATCH:
        model.init_weights(params.base.seed)
        return model
    try:
        model.load_state_dict(fit_padding(load_file(folder / WEIGHTS), model.config))
    except (FileNotFoundError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder / WEIGHTS}: damaged or not of its {CONFIG} ({reason}); {_AGAIN}") from None
    return model


def fit_padding(tensors: Tensors, config: GPTConfig) -> Tensors:
    """Return a model's weights, or its optimizer's state, with as many rows of padding as a configuration has.

    No token reads them and no loss trains them: they, and what an optimizer keeps of them, are zero. What is not is left as it is.
    """
    fitted = dict(tensors)
    for name, tensor in tensors.items():
        is_table = name.partition("/")[0] in TOKEN_TABLES and tensor.dim() == 2
        if is_table and len(tensor) >= config.vocab_size and not tensor[config.vocab_size :].any():
            padding = tensor.new_zeros(config.padded_vocab_size - config.vocab_size, tensor.shape[1])
            fitted[name] = torch.cat([tensor[: config.vocab_size], padding])
    return fitted


def load_optimizer(settings: Train, config: GPTConfig, folder: Path = paths.INITIAL) -> Tensors:
    """Return the optimizer's initial state for a model, as `optimizer_tensors` names it: none unless `init_optimizer` asks for it.

    Raises `UserError` if the file is damaged.
    """
    if not settings.init_optimizer:
        return {}
    try:
        return fit_padding(load_file(folder / OPTIMIZER), config)
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(f"{folder / OPTIMIZER}: missing or damaged ({error}); {_AGAIN}") from None
