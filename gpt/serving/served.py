"""A model that is served: what kind it is, how it is asked, and what is known of it."""

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from gpt.finetuning.data.encoded import fit_prompt
from gpt.finetuning.data.templates import ChatTemplate, Message, load_template
from gpt.finetuning.methods.classes import class_probabilities
from gpt.finetuning.methods.models import Classifier
from gpt.finetuning.methods.saving import HEAD, load_classifier
from gpt.model.storage import default_device, load_model
from gpt.serving.engine.engine import Engine
from gpt.serving.facts import Fact
from gpt.serving.loop import EngineLoop
from gpt.tokens.encoding import special_ids

Kind = Literal["base", "chat", "classifier"]


class TooLong(Exception):
    """A prompt that leaves no room for an answer in the model's context."""

    def __init__(self, tokens: int, context: int) -> None:
        super().__init__(
            f"the prompt has {tokens} tokens, and the model's context of {context} must hold an answer too; shorten it"
        )


@dataclass(frozen=True)
class Limits:
    """How much is answered at once: see `gpt serve --help`."""

    max_running: int
    max_waiting: int
    cache_tokens: int | None


class ServedModel:
    """A loaded model. Its answers are computed in a thread that the event loop waits for."""

    def __init__(self, name: str, folder: Path, facts: Sequence[Fact], thread: Executor, limits: Limits) -> None:
        """Load a model's folder; raises `UserError` as `load_model` does."""
        self.name, self.facts, self.created = name, facts, int(time.time())
        self.labels: list[str] = []
        self.template: ChatTemplate | None = None
        self.loop: EngineLoop | None = None
        self.classifier: Classifier | None = None
        if (folder / HEAD).is_file():
            self.classifier, self.encoding, self.labels = load_classifier(folder, default_device())
            model = self.classifier
        else:
            model, self.encoding = load_model(folder, default_device())
            self.template = load_template(folder / "tokenizer", self.encoding)
            engine = Engine(model, self.encoding, max_running=limits.max_running, cache_tokens=limits.cache_tokens)
            self.loop = EngineLoop(engine, thread, limits.max_running + limits.max_waiting)
        self.ends = self.template.ends if self.template else frozenset((self.encoding.eot_token,))
        "Tokens that end an answer."
        self.special = special_ids(self.encoding)
        self.context = model.config.block_size
        self.parameters = model.count_parameters()

    @property
    def kind(self) -> Kind:
        return "classifier" if self.classifier else "chat" if self.template else "base"

    def encode_text(self, text: str) -> list[int]:
        """Return the tokens of a text to go on with: every document begins after an <|endoftext|>."""
        return [self.encoding.eot_token, *self.encoding.encode_ordinary(text)]

    def encode_conversation(self, messages: Sequence[Message], answer_tokens: int) -> tuple[list[int], int]:
        """Return the tokens of a conversation, and how many of its oldest messages were left out to make room for an answer.

        Raises `TooLong` if the last turn with the system's message is too long, `UserError` if the template does not take it.
        """
        assert self.template is not None
        room = self.context - min(answer_tokens, self.context // 2)
        ids, dropped = fit_prompt(self.template, messages, room)
        if len(ids) >= self.context:
            raise TooLong(len(ids), self.context)
        return ids, dropped

    def classify(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """Return the probabilities of each text's classes, (texts, classes), and how many tokens the texts have."""
        assert self.classifier is not None
        encoded = [np.array(self.encode_text(text), np.int32) for text in texts]
        if (longest := max(map(len, encoded))) > self.context:
            raise TooLong(longest, self.context)
        return class_probabilities(self.classifier, encoded), sum(map(len, encoded))
