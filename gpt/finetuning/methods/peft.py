"""Adapters to and from PEFT's folders, for the architecture of transformers that computes what a model computes.

What PEFT loads needs the base model beside it, with rows for new tokens: `export_peft` writes both. Where one matrix of theirs
holds several of ours, one below the other, its adapter holds all of theirs: A is stacked, B is block-diagonal, the rank is the sum.
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
from gpt.finetuning.methods.models import grow_tables
from gpt.finetuning.methods.saving import ADAPTER
from gpt.model.convert.architectures import Architecture
from gpt.model.convert.huggingface import choose_architecture, export_huggingface, import_huggingface, refuse_used
from gpt.model.storage import load_model, save_model
from gpt.model.transformer import TOKEN_TABLES, GPTModel
from gpt.params.finetuning import Lora

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_BEFORE = "base_model.model."
Tensors = dict[str, torch.Tensor]


def export_peft(tuned: Path, base: Path, output: Path) -> None:
    """Write the adapters of a model folder to `output`/adapter, and to `output`/base the model that they belong to.

    `base` is the folder of the model that was fine-tuned. Raises `UserError` if there are no adapters, or no architecture of
    transformers computes the model.
    """
    if not (tuned / ADAPTER).is_file():
        raise UserError(f"{tuned}: has no adapters; export those of a recipe with method.kind: lora")
    adapters, settings = (
        load_file(tuned / ADAPTER),
        Lora(**read_json(tuned / "adapter.json", "run `gpt finetune train` again")),
    )
    model, _ = load_model(tuned)
    architecture = choose_architecture(model.config, tuned / "config.json")
    start = GPTModel(model.config)
    known = read_json(base / "config.json", "run `gpt finetune data` again")["vocab_size"]
    weights = grow_tables(load_file(base / "model.safetensors"), known, model.config)
    for table in TOKEN_TABLES:
        if (rows := adapters.get(table.replace(".weight", ".new"))) is not None:
            weights[table] = torch.cat((weights[table][:known], rows))
    start.load_state_dict(weights)
    with tempfile.TemporaryDirectory() as temporary, atomic_folder(output) as folder:
        save_model(start, tuned / "tokenizer", Path(temporary, "start"))
        export_huggingface(Path(temporary, "start"), folder / "base")
        (folder / "adapter").mkdir()
        tensors, ranks = _their_adapters(architecture, model.config.n_layer, adapters)
        save_file(tensors, folder / "adapter" / _WEIGHTS, metadata={"format": "pt"})
        write_json(folder / "adapter" / _CONFIG, _describe(architecture, settings, ranks, output))


def _their_adapters(architecture: Architecture, n_layer: int, ours: Tensors) -> tuple[Tensors, dict[str, int]]:
    """Return PEFT's tensors, and for each of their modules how many of ours it holds."""
    tensors: Tensors = {}
    parts_of: dict[str, int] = {}
    linears = {name.removesuffix(".lora_A") + ".weight" for name in ours if name.endswith(".lora_A")}
    for name, parts in architecture.pairs(n_layer, linears):
        module = name.removesuffix(".weight")
        owners = [part.removesuffix(".weight") for part in parts]
        tensors[f"{_BEFORE}{module}.lora_A.weight"] = torch.cat([ours[f"{owner}.lora_A"] for owner in owners])
        tensors[f"{_BEFORE}{module}.lora_B.weight"] = torch.block_diag(*(ours[f"{owner}.lora_B"] for owner in owners))
        parts_of[module] = len(owners)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, parts_of


def _describe(architecture: Architecture, settings: Lora, parts_of: dict[str, int], output: Path) -> dict[str, Any]:
    """Return PEFT's configuration. Of a module with k of ours rank and alpha are k times as large, so that the scale stays."""
    joined = {module: parts for module, parts in parts_of.items() if parts > 1}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(output / "base"),
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "bias": "none",
        "fan_in_fan_out": bool(architecture.transposed),
        "inference_mode": True,
        "target_modules": sorted(parts_of),
        "rank_pattern": {f"^{re.escape(module)}$": parts * settings.rank for module, parts in joined.items()},
        "alpha_pattern": {f"^{re.escape(module)}$": parts * settings.alpha for module, parts in joined.items()},
    }


def import_merged(source: Path, adapter: Path, output: Path) -> GPTModel:
    """Write a Hugging Face folder with a PEFT adapter merged into it to `output`, whole or not at all; return the model.

    Raises `UserError` as `import_huggingface` and `merge_peft` do.
    """
    refuse_used(output, "name another folder with --output")
    with tempfile.TemporaryDirectory() as temporary:
        import_huggingface(source, Path(temporary, "model"))
        model, _ = load_model(Path(temporary, "model"))
        merge_peft(model, adapter, source / "config.json")
        save_model(model, Path(temporary, "model", "tokenizer"), output)
    return model


def merge_peft(model: GPTModel, adapter: Path, file: Path) -> GPTModel:
    """Add a PEFT adapter's products to the weights of the model that it belongs to, in place; return the model.

    `file` is the model's config.json, for messages. Raises `UserError` if the folder holds no LoRA adapter, or another model's.
    """
    config = read_json(adapter / _CONFIG, "name a folder that PEFT has saved", ("peft_type", "r", "lora_alpha"))
    if config["peft_type"] != "LORA" or config.get("use_dora") or config.get("bias", "none") != "none":
        raise UserError(f"{adapter / _CONFIG}: not plain LoRA (peft_type, use_dora, bias), so it cannot be merged here")
    try:
        tensors = load_file(adapter / _WEIGHTS)
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(f"{adapter / _WEIGHTS}: missing or damaged ({error})") from None
    architecture = choose_architecture(model.config, file)
    weights = model.state_dict()
    pairs = {name.removesuffix(".weight"): parts for name, parts in architecture.pairs(model.config.n_layer, weights)}
    for name in sorted(tensors):
        found = re.fullmatch(re.escape(_BEFORE) + r"(.+)\.lora_(A|B)\.weight", name)
        parts = pairs.get(found[1], []) if found else []
        if found is None or not parts or (other := f"{_BEFORE}{found[1]}.lora_B.weight") not in tensors:
            raise UserError(f"{adapter / _WEIGHTS}: {name} is of no weight of {file.parent}")
        if found[2] == "A":
            _add(weights, parts, tensors[other] @ tensors[name] * _scale(config, found[1], len(tensors[name])), adapter)
    model.load_state_dict(weights)
    return model


def _add(weights: Tensors, parts: list[str], product: torch.Tensor, adapter: Path) -> None:
    shape = [sum(len(weights[part]) for part in parts), weights[parts[0]].shape[1]]
    if list(product.shape) != shape:
        raise UserError(f"{adapter}: its product for {parts[0]} is {list(product.shape)}, the weight {shape}")
    for part, rows in zip(parts, product.split([len(weights[part]) for part in parts]), strict=True):
        weights[part] = weights[part] + rows


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """Return what PEFT multiplies a module's product by."""
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})$", module) or re.match(pattern, module):
            alpha = value
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
