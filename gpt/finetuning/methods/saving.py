"""A fine-tuned model as a folder: a model folder as any other, with what is its own beside it.

model.safetensors is the whole model, adapters merged, so that everything that reads a model reads it. Beside it lie
`adapter.safetensors` (adapters and new rows as they were trained) and, of a classifier, `head.safetensors` and `labels.json`.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from gpt.errors import UserError
from gpt.files import read_json, write_json
from gpt.finetuning.data.templates import ChatTemplate, load_template
from gpt.finetuning.methods.lora import adapter_weights, merged_model
from gpt.finetuning.methods.models import Classifier
from gpt.model.storage import load_model, save_model
from gpt.model.transformer import GPTModel
from gpt.params.finetuning import Recipe
from gpt.tokens.encoding import Encoding

ADAPTER = "adapter.safetensors"
HEAD = "head.safetensors"
LABELS = "labels.json"


def save_fine(model: GPTModel, recipe: Recipe, labels: list[str], tokenizer: Path, output: Path) -> None:
    """Write a model that a recipe has trained to `output`, whole or not at all."""
    also: dict[str, dict[str, torch.Tensor]] = {}
    if adapters := adapter_weights(model):
        also[ADAPTER] = adapters
    if isinstance(model, Classifier):
        also[HEAD] = {name: tensor.detach() for name, tensor in model.label_head.state_dict().items()}

    def add(folder: Path) -> None:
        for name, tensors in also.items():
            save_file({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, folder / name)
        if adapters:
            write_json(folder / "adapter.json", recipe.method.model_dump(mode="json"))
        if labels:
            write_json(folder / LABELS, labels)

    save_model(merged_model(model), tokenizer, output, add)


def load_classifier(folder: Path, device: str | torch.device = "cpu") -> tuple[Classifier, Encoding, list[str]]:
    """Return a classifier, its tokenizer and the names of its classes; raise `UserError` if the folder holds none."""
    model, encoding = load_model(folder)
    if not (folder / HEAD).is_file():
        raise UserError(
            f"{folder}: is no classifier (it has no {HEAD}); name the model of a recipe with task.kind: classify"
        )
    labels = read_json(folder / LABELS, "run `gpt finetune` again")
    classifier = Classifier(model.config, len(labels))
    head = {f"label_head.{name}": tensor for name, tensor in load_file(folder / HEAD).items()}
    classifier.load_state_dict(model.state_dict() | head)
    return classifier.to(device).eval(), encoding, labels


def load_answering(folder: Path, device: str | torch.device = "cpu") -> tuple[GPTModel, ChatTemplate]:
    """Return a model that has learned to answer, and its chat template with the tokenizer; raise `UserError` if it has none."""
    model, encoding = load_model(folder, device)
    template = load_template(folder / "tokenizer", encoding)
    if template is None:
        raise UserError(
            f"{folder}: its tokenizer has no chat template; name the model of a recipe with task.kind: instruct or preference"
        )
    return model, template
