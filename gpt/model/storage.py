"""A model as a folder: model.safetensors, config.json and, in tokenizer/, the tokenizer it was trained with."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gpt.errors import UserError
from gpt.files import atomic_folder, read_json, write_json
from gpt.memory import is_out_of_memory
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.tokens.encoding import Encoding
from gpt.tokens.tokenizer import load_tokenizer


def save_model(
    model: GPTModel, tokenizer: Path, output: Path, add: Callable[[Path], None] = lambda folder: None
) -> None:
    """Write weights, configuration and a copy of the tokenizer's folder to `output`, whole or not at all.

    `add` writes what else belongs to it into the folder that becomes `output`.
    Raises `UserError` if the disk does not take the weights.
    """
    with atomic_folder(output) as folder:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        try:
            save_file(weights, folder / "model.safetensors")
        except SafetensorError as error:  # it hides the OSError: a full disk is no bug
            raise UserError(f"{output}: {error}; make room, or make it writable") from None
        write_json(folder / "config.json", model.config.to_dict())
        shutil.copytree(tokenizer, folder / "tokenizer")
        add(folder)


def load_model(folder: Path, device: str | torch.device = "cpu") -> tuple[GPTModel, Encoding]:
    """Load a model folder for inference; raise `UserError` if something is missing, damaged or does not fit."""
    hint = "run `gpt pretrain`, or name a model folder"
    values = read_json(folder / "config.json", hint)
    encoding = load_tokenizer(folder / "tokenizer")
    try:
        config = GPTConfig(**values)
        model = GPTModel(config)
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except FileNotFoundError:
        raise UserError(f"{folder / 'model.safetensors'}: not found; {hint}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{folder / 'config.json'}: not a GPTModel's configuration ({error}); {hint}") from None
    except (SafetensorError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{folder / 'model.safetensors'}: damaged or not of this config.json ({reason}); {hint}"
        ) from None
    if config.vocab_size != encoding.n_vocab:
        raise UserError(
            f"{folder}: config.json has vocab_size {config.vocab_size}, the tokenizer {encoding.n_vocab}; {hint}"
        )
    return model.to(device).eval(), encoding


def default_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
