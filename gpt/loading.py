"""A trained model in Python: `gpt.load("models:/NAME@champion").generate("To be")`, from any folder, with or without a project.

It is what the commands use, the same folders and versions, the same functions: a prompt, a seed and the options of sampling give
the text that `gpt generate` writes, and bits per byte are those of `gpt evaluate`.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from gpt import addresses
from gpt.errors import UserError
from gpt.evaluation.likelihood import Likelihood, documents_likelihood
from gpt.files import read_json
from gpt.model.generation import generate_text, generate_texts
from gpt.model.sampling import Sampling
from gpt.model.storage import default_device, load_model
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.project import PARAMS_FILE, load_params
from gpt.paths import DATABASE, current_folder, find_project
from gpt.registry.versions import find_version, is_registry_uri, model_folder
from gpt.tokens.encoding import Encoding
from gpt.tokens.tokenizer import encode_document
from gpt.tracking import store


def load(
    model: str | Path, *, project: str | Path | None = None, device: str | torch.device | None = None
) -> "LanguageModel":
    """Load a trained model.

    `model` is a folder that `gpt pretrain` or `gpt import` made, such as `models/base`, or a version of the registry:
    `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or `@ALIAS` of the project's own model. The registry is that of
    MLFLOW_TRACKING_URI, else that of `project` (by default the project that the current folder lies in). A version on a server
    is downloaded once. `device` is the GPU if there is one, else the CPU.

    Raises `gpt.errors.UserError` if there is no such model, if it is damaged, or if it is not one of ours.

    >>> import gpt
    >>> model = gpt.load("models:/shakespeare-gpt@champion")
    >>> model.generate("To be, or not to be", max_new_tokens=40, temperature=0.8, top_k=50, seed=7)
    """
    name, folder = str(model), Path(model)
    if is_registry_uri(name):
        name, folder = _version(name, None if project is None else Path(project))
    elif "architectures" in read_json(folder / "config.json", "name a folder that `gpt pretrain` or `gpt import` made"):
        raise UserError(f"{folder}: in the form of Hugging Face; `gpt import {folder}` makes a folder of it that loads")
    return LanguageModel(name, *load_model(folder, default_device() if device is None else device))


def _version(uri: str, project: Path | None) -> tuple[str, Path]:
    """Return the name of a registered version, its alias resolved, and the folder of its model."""
    if project is not None and not (project / PARAMS_FILE).exists():
        raise UserError(f"{project}: not a project, it has no {PARAMS_FILE}")
    home = project or find_project(current_folder())
    if addresses.mlflow_address():
        address = store.tracking_uri()
    elif home is not None:
        address = store.address_of(home / DATABASE)
    else:
        raise UserError(
            f"{uri}: the current folder lies in no project, whose registry it could be of; give `project`, or set"
            f" {addresses.MLFLOW} to the address of the store, such as sqlite:////path/of/the/project/{DATABASE}"
        )
    own_name = load_params(home / PARAMS_FILE).register_.name if home is not None and uri.startswith("@") else None
    client = store.existing_client(address)
    with store.store_errors(address):
        version = find_version(client, uri, own_name)
        return f"models:/{version.name}/{version.version}", model_folder(client, version)


class LanguageModel:
    """A trained GPT and its tokenizer, as `gpt.load` gives it: writes text, and says how likely a text is.

    It holds no state between calls: the same arguments give the same answer.
    """

    def __init__(self, name: str, network: GPTModel, tokenizer: Encoding) -> None:
        self.name = name
        "What was loaded: the folder, or `models:/NAME/VERSION` with the alias resolved."
        self.network = network
        "The `torch.nn.Module`: token ids (B, T) to logits (B, T, vocab_size)."
        self.tokenizer = tokenizer
        "`tokenizer.encode_ordinary(text)` gives token ids, `tokenizer.decode(ids)` the text."

    @property
    def config(self) -> GPTConfig:
        """The architecture: `n_layer`, `n_head`, `n_embd`, `block_size`, `vocab_size`, …"""
        return self.network.config

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def generate(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> str:
        """Return how the model continues a prompt, without the prompt: to the end of the document, or to what ends it sooner.

        `max_new_tokens` and any text of `stop` end it. `temperature` divides the logits (0 takes the likeliest token always);
        `top_k`, `top_p` and `min_p` sample among the likeliest tokens (0, 1 and 0: among all); `repetition_penalty` above 1
        makes tokens less likely that were there before. Raises `ValueError` for a value that is out of range.

        >>> model.generate("To be, or", max_new_tokens=20, temperature=0)
        """
        return "".join(
            self.stream(
                prompt,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                repetition_penalty=repetition_penalty,
                stop=stop,
                seed=seed,
            )
        )

    def generate_batch(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[str]:
        """Return how the model continues each prompt, computed side by side; prompt i draws as `generate` does with seed + i.

        >>> model.generate_batch(["To be", "My lord,"], max_new_tokens=20)
        """
        sampling = Sampling(
            max_new_tokens, repetition_penalty, temperature, top_k, top_p, min_p, _texts(stop, "stop"), seed
        )
        return generate_texts(self.network, self.tokenizer, _texts(prompts, "prompts"), sampling)

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> Iterator[str]:
        """Yield what `generate` returns piece by piece, in whole characters, as it is written.

        >>> for piece in model.stream("To be, or"):
        ...     print(piece, end="", flush=True)
        """
        sampling = Sampling(
            max_new_tokens, repetition_penalty, temperature, top_k, top_p, min_p, _texts(stop, "stop"), seed
        )
        return generate_text(self.network, self.tokenizer, _text(prompt, "prompt"), sampling)

    def likelihood(self, texts: str | Iterable[str]) -> Likelihood:
        """Return `nats`, `tokens`, `text_bytes`, `loss`, `perplexity` and `bits_per_byte` of one document or of several together.

        As `gpt evaluate` measures: each document from its beginning to its <|endoftext|>, which is predicted too, and each token
        once, in a context of at least half of `block_size` where the document has so much.
        """
        documents = [_text(texts, "texts")] if isinstance(texts, str) else _texts(texts, "texts")
        text_bytes = sum(len(document.encode()) for document in documents)
        tokens = (encode_document(self.tokenizer, document).astype(np.int64) for document in documents)
        return Likelihood(*documents_likelihood(self.network, tokens, self.tokenizer.eot_token), text_bytes)

    def log_likelihood(self, text: str) -> float:
        """Return the natural logarithm of the probability of a text as a whole document.

        >>> model.log_likelihood("To be, or not to be") > model.log_likelihood("Be or to, not be to")
        True
        """
        return -self.likelihood(_text(text, "text")).nats

    def bits_per_byte(self, texts: str | Iterable[str]) -> float:
        """Return how many bits a byte of UTF-8 of one document, or of several together, takes: less is better predicted.

        Comparable between models with different tokenizers. Raises `ValueError` of texts without a byte.
        """
        likelihood = self.likelihood(texts)
        if not likelihood.text_bytes:
            raise ValueError("texts are empty: there is no byte to measure by")
        return likelihood.bits_per_byte

    def __repr__(self) -> str:
        return (
            f"LanguageModel({self.name!r}, {self.network.count_parameters():,} parameters, block_size {self.config.block_size},"
            f" vocab_size {self.config.vocab_size}, {self.device})"
        )


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, not {type(value).__name__}")
    return value


def _texts(values: object, name: str) -> tuple[str, ...]:
    """Return texts as a tuple; a single text is no sequence of texts, although its characters are."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of texts, not {type(values).__name__}")
    return tuple(_text(value, f"{name}[{place}]") for place, value in enumerate(values))
