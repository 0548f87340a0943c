"""Models to and from Hugging Face's folders: GPT-2 weight for weight, other choices as the architecture that computes the same.

Folders are safetensors and JSON on both sides: nothing here imports transformers, and nothing is unpickled.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gpt.errors import UserError
from gpt.files import atomic_folder, read_json, write_json
from gpt.model.convert.architectures import ACTIVATIONS, ARCHITECTURES, BUFFERS, ROPE, Architecture
from gpt.model.convert.tokenizer import export_tokenizer, import_tokenizer
from gpt.model.storage import load_model, save_model
from gpt.model.transformer import TOKEN_TABLES, GPTConfig, GPTModel
from gpt.tokens.encoding import CHAT_TEMPLATE, Encoding, chat_end
from gpt.tokens.tokenizer import load_tokenizer

HINT = "name a folder with config.json, model.safetensors and tokenizer.json, as save_pretrained writes it"
Tensors = dict[str, torch.Tensor]


def export_huggingface(folder: Path, output: Path, card: str = "") -> Architecture:
    """Write a model folder to `output` as `from_pretrained` of transformers loads it; return the architecture that it has there.

    `card` becomes README.md, the model card, if there is one. `generate` without arguments continues a prompt as
    `gpt generate --temperature 0` does, up to the end of the context: there ours drops the oldest half, and theirs ends.
    Raises `UserError` if no architecture computes the same, or `output` is in use.
    """
    refuse_used(output, "name another folder")
    model, encoding = load_model(folder)
    config, state = model.config, _without_padding(model)
    best = choose_architecture(config, folder / "config.json")
    if model.position_table is not None:
        state["pos_emb.weight"] = model.position_table  # sinusoidal: the same numbers as a learned table
    settings = {key: value for key, value in best.describe(config, state).items() if value is not None}
    if rope := {key: settings[key] for key in ROPE if key in settings}:
        # transformers 5 reads the object, 4 the single settings, where a missing rope_scaling is not always none.
        settings |= {"rope_parameters": rope, "rope_scaling": None}
    ends = _ends(folder / "tokenizer", encoding)
    special = {"bos_token_id": encoding.eot_token, "eos_token_id": ends if len(ends) > 1 else ends[0]}
    about = {"architectures": [best.class_name], "model_type": best.model_type, "dtype": "float32"} | special
    with atomic_folder(output) as partial:
        try:
            save_file(_their_tensors(best, config, state), partial / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:  # it hides the OSError: a full disk is no bug
            raise UserError(f"{output}: {error}; make room, or make it writable") from None
        write_json(partial / "config.json", about | settings | dict.fromkeys(best.dropout, config.dropout))
        generation = {"pad_token_id": encoding.eot_token, "do_sample": False, "max_length": config.block_size}
        write_json(partial / "generation_config.json", special | generation)
        export_tokenizer(folder / "tokenizer", partial, config.block_size)
        if card:
            (partial / "README.md").write_text(card, encoding="utf-8")
    return best


def choose_architecture(config: GPTConfig, file: Path) -> Architecture:
    """Return the architecture of transformers that computes the same; raise `UserError`, which names the `file`, if none does."""
    obstacles = {found: found.obstacles(config) for found in ARCHITECTURES}
    best = min(obstacles, key=lambda found: len(obstacles[found]))
    if obstacles[best]:
        nearest = [(found, has) for found, has in obstacles.items() if len(has) == len(obstacles[best])]
        raise UserError(
            f"{file}: no architecture of transformers computes this; train with what one of these has: "
            + "; ".join(f"{found.model_type} has {' and '.join(has)}" for found, has in nearest)
        )
    return best


def import_huggingface(source: Path, output: Path) -> GPTModel:
    """Write a Hugging Face folder (safetensors, in one file or several) to `output` as one of our model folders.

    Raises `UserError` if a file is missing or damaged, the model is not one that GPTModel computes, or `output` is in use.
    """
    refuse_used(output, "name another folder with --output")
    file = source / "config.json"
    settings = read_json(file, HINT, ["model_type"])
    architecture = next((found for found in ARCHITECTURES if found.model_type == settings["model_type"]), None)
    if architecture is None:
        known = ", ".join(found.model_type for found in ARCHITECTURES)
        raise UserError(f"{file}: model_type is {settings['model_type']!r}; GPTModel computes only {known}")
    config = _our_config(architecture, settings, file)
    try:
        with torch.device("meta"):  # names and shapes, without memory
            model = GPTModel(config)
    except (ArithmeticError, RuntimeError, ValueError) as error:
        raise UserError(f"{file}: its sizes do not fit each other ({error}); {HINT}") from None
    shapes = model.state_dict()
    for key, ours in (architecture.describe(config, shapes) | {"quantization_config": None}).items():
        value = _setting(architecture, settings, key)
        if value not in (None, ours) and key != architecture.activation:
            raise UserError(
                f"{file}: {key} is {value!r}; GPTModel computes this with {ours!r} only, so it cannot be imported"
            )
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer = Path(temporary, "tokenizer")
        import_tokenizer(source, tokenizer)
        n_vocab = load_tokenizer(tokenizer).n_vocab
        if n_vocab != config.vocab_size:
            raise UserError(
                f"{file}: vocab_size is {config.vocab_size}, but the tokenizer has {n_vocab} tokens; {HINT}"
            )
        weights = _our_tensors(architecture, config, shapes, _read_tensors(source), source)
        model.load_state_dict(weights, assign=True)
        save_model(model, tokenizer, output)
    return model


def _ends(tokenizer: Path, encoding: Encoding) -> list[int]:
    """Return the ids that end what a model writes: the end of a document and, where it has learned to answer, of a turn."""
    file = tokenizer / CHAT_TEMPLATE
    end = chat_end(file.read_text(encoding="utf-8"), encoding) if file.is_file() else None
    return [encoding.eot_token, *([] if end is None else [encoding.encode_single_token(end)])]


def _without_padding(model: GPTModel) -> Tensors:
    """Return a model's weights with a row of the embedding and of the head for each token, and no more."""
    return {
        name: tensor[: model.config.vocab_size] if name in TOKEN_TABLES else tensor
        for name, tensor in model.state_dict().items()
    }


def refuse_used(folder: Path, what_to_do: str) -> None:
    """Raise `UserError` if something is where a folder shall be written: it would be replaced."""
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise UserError(f"{folder}: is there already; {what_to_do}, or remove it")


def _their_tensors(architecture: Architecture, config: GPTConfig, ours: Tensors) -> Tensors:
    """Return the weights as the architecture names, joins and transposes them."""
    tensors: Tensors = {}
    for name, parts in architecture.pairs(config.n_layer, ours):
        tensor = torch.cat([ours[part] for part in parts])
        module = name.removesuffix(".weight")
        if module != name and re.match(architecture.biased, module):
            tensors[f"{module}.bias"] = torch.zeros(len(tensor))  # ours, if there is one, comes next
        tensors[name] = (tensor.T if name.endswith(architecture.transposed) else tensor).contiguous()
    return tensors


def _our_tensors(
    architecture: Architecture, config: GPTConfig, shapes: Tensors, theirs: Tensors, source: Path
) -> Tensors:
    """Return the weights as GPTModel names them, float32; raise `UserError` for one missing, unknown or of another shape."""
    pairs = dict(architecture.pairs(config.n_layer, shapes))
    # A model without its head is saved without the prefix.
    prefix = architecture.prefix
    theirs = {prefix + name if prefix + name in pairs else name: tensor for name, tensor in theirs.items()}
    tensors: Tensors = {}
    for name, parts in pairs.items():
        tensor = theirs.pop(name, None)
        if tensor is None:
            raise UserError(f"{source}: has no weight {name}, so it is not the model of its config.json; {HINT}")
        tensor = tensor.T if name.endswith(architecture.transposed) else tensor
        rows = [shapes[part].shape[0] for part in parts]
        shape = [sum(rows), *shapes[parts[0]].shape[1:]]
        if list(tensor.shape) != shape or not tensor.is_floating_point():
            found = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            raise UserError(f"{source}: weight {name} is {found}, its config.json means floats {shape}; {HINT}")
        for part, piece in zip(parts, tensor.split(rows), strict=True):
            tensors[part] = piece.to(torch.float32, memory_format=torch.contiguous_format)
    for name, tensor in theirs.items():
        tied = (
            config.tie_embeddings
            and name.endswith("lm_head.weight")
            and torch.equal(tensor.float(), tensors["tok_emb.weight"])
        )
        idle = name.endswith(".bias") and name.removesuffix("bias") + "weight" in pairs and not tensor.any()
        if not (tied or idle or BUFFERS.fullmatch(name)):
            reason = (
                "is not the embedding, to which its config.json ties it"
                if "lm_head" in name
                else "is unknown to GPTModel"
            )
            raise UserError(f"{source}: weight {name} {reason}, so it cannot be imported; {HINT}")
    return tensors


def _our_config(architecture: Architecture, settings: dict[str, Any], file: Path) -> GPTConfig:
    """Return a GPTConfig of their settings; those that say how one thing is computed are checked against it afterwards."""
    values: dict[str, Any] = {name: allowed[0] for name, allowed in architecture.choices.items()}
    for key, name in architecture.settings.items():
        if name == "head_size":
            continue
        value = _setting(architecture, settings, key)
        kind, meaning = (bool, "true or false") if name in ("bias", "tie_embeddings") else (int, "a number above 0")
        if type(value) is not kind or value < (kind is int):
            raise UserError(f"{file}: {key} is {value!r}, not {meaning}; {HINT}")
        values[name] = value
    heads = values.pop("kv_heads", values["n_head"])
    values["n_kv_head"] = 0 if heads == values["n_head"] else heads
    usable = [theirs for theirs, ours in ACTIVATIONS.items() if ours in architecture.choices["activation"]]
    activation = _setting(architecture, settings, architecture.activation) or usable[0]
    if activation not in usable:
        raise UserError(
            f"{file}: {architecture.activation} is {activation!r}; GPTModel has only {', '.join(usable)} there"
        )
    values["activation"] = ACTIVATIONS[activation]
    dropout = settings.get(architecture.dropout[0])
    values["dropout"] = dropout if isinstance(dropout, float) and 0 <= dropout < 1 else 0.0
    return GPTConfig(**values)


def _setting(architecture: Architecture, settings: dict[str, Any], key: str) -> Any:
    """Return one of their settings as transformers reads it; None if it is not there and then means what we have."""
    rope = settings.get("rope_parameters") or settings.get("rope_scaling")
    if key in ROPE and isinstance(rope, dict):
        settings = settings | {"rope_type": rope.get("type", "default")} | rope
    if settings.get(key) is None and key == "num_key_value_heads":
        key = "num_attention_heads"
    return architecture.defaults.get(key) if settings.get(key) is None else settings[key]


def _read_tensors(source: Path) -> Tensors:
    """Read the weights of a Hugging Face folder; raise `UserError` if a file is missing, damaged or a pickle."""
    index, files = source / "model.safetensors.index.json", ["model.safetensors"]
    if not (source / files[0]).exists() and index.exists():
        parts = read_json(index, HINT, ["weight_map"])["weight_map"]
        files = sorted({str(name) for name in parts.values()}) if isinstance(parts, dict) else []
        if not files or any(Path(name).name != name for name in files):
            raise UserError(f"{index}: weight_map does not name files of this folder; {HINT}")
    elif not (source / files[0]).exists() and (pickles := sorted(source.glob("pytorch_model*.bin"))):
        raise UserError(
            f"{pickles[0]}: a pickle, which can run anything when it is read; load and save the model with transformers,"
            " which writes model.safetensors, and import that"
        )
    tensors: Tensors = {}
    for name in files:
        try:
            tensors |= load_file(source / name)
        except FileNotFoundError:
            raise UserError(f"{source / name}: not found; {HINT}") from None
        except SafetensorError as error:
            raise UserError(f"{source / name}: damaged ({str(error).splitlines()[0]}); bring it again") from None
    return tensors
