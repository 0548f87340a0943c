"""What is trained: a base model with rows for new tokens, with a head for classes, or with the loss of preferences.

Each is a GPTModel, so that the step, checkpoints and processes of pretraining take it; called with a batch and a scale it returns
the scaled loss to minimise and the loss, both summed over the batch.
"""

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from gpt.files import read_json
from gpt.finetuning.methods.lora import add_lora
from gpt.model.transformer import TOKEN_TABLES, GPTConfig, GPTModel
from gpt.params.finetuning import Classify, Preference, Recipe


class Classifier(GPTModel):
    """A GPT with a head on the last token of each text, (B, T) to (B, classes), instead of that for tokens (Raschka, chapter 6)."""

    def __init__(self, config: GPTConfig, classes: int) -> None:
        super().__init__(config)
        self.label_head = nn.Linear(config.n_embd, classes)
        nn.init.zeros_(self.label_head.weight)
        nn.init.zeros_(self.label_head.bias)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, tokens: torch.Tensor, lasts: torch.Tensor, labels: torch.Tensor, *, scale: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of classes `labels` (B,), whose texts end at the places `lasts` (B,) of `tokens` (B, T)."""
        loss = F.cross_entropy(self.class_logits(tokens, lasts), labels, reduction="sum")
        return loss * scale, loss.detach()

    def class_logits(self, tokens: torch.Tensor, lasts: torch.Tensor) -> torch.Tensor:
        """Return (B, classes) fp32. What comes after a text's last token has no part in it."""
        hidden = self.hidden(tokens)
        return self.label_head(hidden[torch.arange(len(tokens), device=tokens.device), lasts]).float()


class PreferenceModel(GPTModel):
    """A GPT that learns which of two answers is the better one, by DPO (Rafailov et al. 2023)."""

    def __init__(self, config: GPTConfig, beta: float) -> None:
        super().__init__(config)
        self.beta = beta

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        tokens: torch.Tensor,
        wanted: torch.Tensor,
        targets: torch.Tensor,
        rows: torch.Tensor,
        reference: torch.Tensor,
        *,
        scale: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of pairs whose chosen answers are the even rows of `tokens` (2 B, T), the rejected ones the odd.

        `reference` (2 B,) are the base model's log-likelihoods of the answers; the other arguments are as in `log_likelihoods`.
        """
        margins = self.beta * self.margins(self.log_likelihoods(tokens, wanted, targets, rows) - reference)
        loss = -F.logsigmoid(margins).sum()
        return loss * scale, loss.detach()

    def log_likelihoods(
        self, tokens: torch.Tensor, wanted: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """Return each row's log-likelihood in nats, (2 B,), summed over its answer.

        `wanted` (N,) are the places in the flattened tokens whose next ones, `targets` (N,), are of an answer; `rows` (N,) say of
        which row.
        """
        logits = self.logits(self.hidden(tokens).flatten(0, 1)[wanted]).float()
        nats = F.cross_entropy(logits, targets, reduction="none")
        return -torch.zeros(len(tokens), device=tokens.device).index_add(0, rows, nats)

    @staticmethod
    def margins(gains: torch.Tensor) -> torch.Tensor:
        """Return (B,): by how much more the chosen answers have gained than the rejected ones."""
        return gains[0::2] - gains[1::2]


def build_model(recipe: Recipe, base: Path, vocab_size: int, classes: int = 0) -> GPTModel:
    """Return a base model's folder as what the recipe trains: weights that do not learn have `requires_grad` off.

    Tokens that the base does not know begin as the mean of those that it does (Hewitt 2021).
    """
    known = GPTConfig(**read_json(base / "config.json", "run `gpt finetune` again"))
    config = fine_config(recipe, known, vocab_size)
    task = recipe.task
    if isinstance(task, Classify):
        model: GPTModel = Classifier(config, classes)
    elif isinstance(task, Preference):
        model = PreferenceModel(config, task.beta)
    else:
        model = GPTModel(config)
    weights = grow_tables(load_file(base / "model.safetensors"), known.vocab_size, config)
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("label_head.")}
    model.load_state_dict(weights | own)
    _choose_trained(model, recipe, known.vocab_size)
    return model


def fine_config(recipe: Recipe, base: GPTConfig, vocab_size: int) -> GPTConfig:
    """Return the base's configuration with the vocabulary, the dropout and the context that the recipe asks for."""
    block_size = recipe.block_size or base.block_size
    return replace(base, vocab_size=vocab_size, dropout=recipe.train.dropout, pad_vocab=1, block_size=block_size)


@torch.no_grad()
def grow_tables(weights: dict[str, torch.Tensor], known: int, config: GPTConfig) -> dict[str, torch.Tensor]:
    """Return weights whose tables have `config.vocab_size` rows: the `known` first ones, and for each new token their mean."""
    grown = dict(weights)
    for name in TOKEN_TABLES:
        if name in weights:
            table = weights[name][:known]
            grown[name] = torch.cat((table, table.mean(0, keepdim=True).expand(config.vocab_size - known, -1)))
    return grown


def _choose_trained(model: GPTModel, recipe: Recipe, known: int) -> None:
    method = recipe.method
    if method.kind == "lora":
        add_lora(model, method, seed=recipe.seed, known=known)
    elif method.kind == "head":
        model.requires_grad_(False)
    elif method.kind == "last_blocks":
        model.requires_grad_(False)
        for part in (*model.trf_blocks[-method.blocks :], model.final_norm):
            part.requires_grad_(True)
        if not isinstance(model, Classifier):
            (model.tok_emb if model.out_head is None else model.out_head).requires_grad_(True)
    if isinstance(model, Classifier):
        if model.out_head is not None:
            model.out_head.requires_grad_(False)  # no loss reaches it
        model.label_head.requires_grad_(True)
