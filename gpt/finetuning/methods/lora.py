"""Low-rank adapters (Hu et al. 2021): a frozen linear layer and the product of two thin matrices beside it, which are trained.

All linear layers of the blocks have one. A tokenizer's new special tokens have rows of their own in the embedding and the head,
which are trained too: frozen ones could not be told apart.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from gpt.model.transformer import GPTModel
from gpt.params.finetuning import Lora

Tensors = dict[str, torch.Tensor]


class LoraLinear(nn.Linear):
    """A linear layer whose weight is frozen, plus `lora_B @ lora_A` times alpha / rank: (…, in_features) to (…, out_features)."""

    def __init__(self, linear: nn.Linear, settings: Lora, generator: torch.Generator) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.lora_A = nn.Parameter(torch.empty(settings.rank, linear.in_features))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, settings.rank))
        self.drop = nn.Dropout(settings.dropout)
        self.scale = settings.alpha / settings.rank
        bound = 1 / math.sqrt(linear.in_features)  # as a linear layer begins
        nn.init.uniform_(self.lora_A, -bound, bound, generator=generator)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        plain = super().forward(input)
        thin = F.linear(self.drop(input), self.lora_A).flatten(0, -2)  # (N, rank)
        # The product adds itself to what is there: a factor and a sum apart are two passes more over the largest tensors.
        return torch.addmm(plain.flatten(0, -2), thin, self.lora_B.t(), alpha=self.scale).view_as(plain)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return one linear layer that computes the same."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.weight + self.scale * self.lora_B @ self.lora_A)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.clone())
        return linear


class GrownTable(nn.Module):
    """A table with a row for each token of which only the `new` ones, the last, are trained: `weight` (rows, C) is both."""

    def __init__(self, weight: torch.Tensor, known: int) -> None:
        super().__init__()
        self.known = nn.Parameter(weight[:known].detach().clone(), requires_grad=False)
        self.new = nn.Parameter(weight[known:].detach().clone())

    @property
    def weight(self) -> torch.Tensor:
        return torch.cat((self.known, self.new))


def add_lora(model: GPTModel, settings: Lora, *, seed: int, known: int) -> None:
    """Freeze a model and give adapters to its blocks' linear layers, and rows to tokens from the id `known` on."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for owner, name, linear in list(_linears(model)):
        setattr(owner, name, LoraLinear(linear, settings, generator))
    if known < model.config.vocab_size:
        model.tok_emb = GrownTable(model.tok_emb.weight, known)  # pyright: ignore[reportAttributeAccessIssue]
        if model.out_head is not None:
            model.out_head = GrownTable(model.out_head.weight, known)  # pyright: ignore[reportAttributeAccessIssue]


def _linears(model: GPTModel) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    for owner in model.trf_blocks.modules():
        for name, module in owner.named_children():
            if isinstance(module, nn.Linear):
                yield owner, name, module


def adapter_weights(model: nn.Module) -> Tensors:
    """Return the adapters and the new rows of a model by their names, none of a model without."""
    trained = ("lora_A", "lora_B", "tok_emb.new", "out_head.new")
    return {name: parameter.detach() for name, parameter in model.named_parameters() if name.endswith(trained)}


def merged_weights(model: GPTModel) -> Tensors:
    """Return the weights of the plain GPTModel that computes the same; those of a model without adapters are its own."""
    weights: Tensors = {}
    for name, tensor in model.state_dict().items():
        if name.endswith((".lora_A", ".lora_B", ".new")) or name.startswith("label_head."):
            continue
        owner = model.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, LoraLinear) and name.endswith(".weight"):
            tensor = owner.merged().weight.detach()
        elif isinstance(owner, GrownTable):
            name, tensor = name.replace(".known", ".weight"), owner.weight.detach()
        weights[name] = tensor
    return weights


def merged_model(model: GPTModel) -> GPTModel:
    """Return a plain GPTModel that computes what a model with adapters, or a head for classes, computes before that head."""
    with torch.device("meta"):
        plain = GPTModel(model.config)
    plain.load_state_dict(merged_weights(model), assign=True)
    for name, buffer in model.named_buffers():  # positions: no weights, so no state
        owner, _, key = name.rpartition(".")
        setattr(plain.get_submodule(owner), key, buffer)
    return plain.train(model.training)
