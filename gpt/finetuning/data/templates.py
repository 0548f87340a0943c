"""Chat templates: how a conversation becomes tokens, and which of them are the assistant's.

A template is the Jinja text that transformers and vLLM render too, in gpt/finetuning/templates/, with `{% generation %}` around
what the assistant says and its end. Here rendering also says which text came from a message: nothing that a person writes becomes a
special token, even if it spells one.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jinja2
import numpy as np
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gpt.errors import UserError
from gpt.params.finetuning import TrainOn
from gpt.tokens.encoding import CHAT_TEMPLATE, Encoding, chat_end

_FOLDER = Path(__file__).parents[1] / "templates"
# Special tokens of a template.
TOKENS = {
    "turns": ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|call|>", "<|tools|>", "<|end|>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
}
_MARKS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
"Characters that Unicode gives to nobody: they stand for places in a text while it is rendered."

Message = dict[str, Any]


@dataclass(frozen=True)
class Tokens:
    """A text as ids (N,) int32, and which of them have a loss (N,) bool."""

    ids: np.ndarray
    mask: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


class ChatTemplate:
    """Renders conversations with a tokenizer's special tokens. Raises `UserError` if the template cannot be read."""

    def __init__(self, source: str, encoding: Encoding) -> None:
        self.source, self.encoding = source, encoding
        self._special = {name: encoding.encode_single_token(name) for name in encoding.special_tokens_set}
        self._begin = encoding.decode_single_token_bytes(encoding.eot_token).decode()
        end = chat_end(source, encoding)
        self.end = encoding.eot_token if end is None else self._special[end]
        self._environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        self._generation: Any = self._environment.extensions[_Generation.identifier]
        self._environment.filters["tojson"] = _to_json
        self._environment.globals["raise_exception"] = _refuse
        try:
            self._template = self._environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"{CHAT_TEMPLATE}: no Jinja template (line {error.lineno}: {error.message})") from None

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer: the end of a turn, and of a document."""
        return frozenset((self.end, self.encoding.eot_token))

    def encode(self, messages: Sequence[Message], train_on: TrainOn, tools: Any = None) -> Tokens:
        """Return a conversation's tokens, and which `train_on` lets have a loss; never the first one, which nothing predicts."""
        ids, spans = self._encode(messages, tools, is_prompt=False)
        mask = np.full(len(ids), train_on == "everything")
        for first, last in spans[-1:] if train_on == "last_answer" else spans:
            mask[first:last] = True
        mask[:1] = False
        return Tokens(np.array(ids, np.int32), mask)

    def encode_prompt(self, messages: Sequence[Message], tools: Any = None) -> list[int]:
        """Return the tokens after which the assistant's answer comes."""
        return self._encode(messages, tools, is_prompt=True)[0]

    def _encode(
        self, messages: Sequence[Message], tools: Any, *, is_prompt: bool
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Return ids, and from where to where the assistant's are."""
        begin, finish, escape = self._marks(json.dumps([messages, tools], ensure_ascii=False))
        names = sorted(self._special, key=len, reverse=True)
        self._generation.marks = (begin, finish)
        escaped = [_replace(message, names, escape) for message in messages]
        try:
            text = self._template.render(
                messages=escaped, tools=_replace(tools, names, escape), add_generation_prompt=is_prompt, bos_token=self._begin,
                eos_token=self._begin,
            )  # fmt: skip
        except jinja2.TemplateError as error:
            raise UserError(f"{CHAT_TEMPLATE}: does not take this conversation ({error})") from None
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        first = 0
        for piece in self._cut(text, names, begin, finish):
            if piece == begin:
                first = len(ids)
            elif piece == finish:
                spans.append((first, len(ids)))
            elif piece in self._special:
                ids.append(self._special[piece])
            else:
                ids += self.encoding.encode_ordinary(_restore(piece, names, escape))
        return ids, spans

    @staticmethod
    def _cut(text: str, names: Sequence[str], begin: str, finish: str) -> Iterator[str]:
        pattern = "|".join(map(re.escape, (begin, finish, *names)))
        yield from (piece for piece in re.split(f"({pattern})", text) if piece)

    @staticmethod
    def _marks(said: str) -> tuple[str, str, str]:
        free = [mark for mark in _MARKS if mark not in said]
        if len(free) < 3:
            raise UserError(
                "a conversation holds too many of the characters U+FDD0 to U+FDEF, which are nobody's; take them out"
            )
        return free[0], free[1], free[2]


class _Generation(Extension):
    """The tag `{% generation %}`, which marks what it holds."""

    tags: ClassVar = {"generation"}  # pyright: ignore[reportIncompatibleVariableOverride]

    marks = ("", "")
    "Written before and after it."

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        begin, finish = self.marks
        return f"{begin}{caller()}{finish}"


def template_source(name: str) -> str:
    """Return the Jinja text of a named template."""
    return (_FOLDER / f"{name}.jinja").read_text(encoding="utf-8").rstrip("\n")


def load_template(folder: Path, encoding: Encoding) -> ChatTemplate | None:
    """Return the template that a tokenizer's folder keeps, None if it keeps none."""
    file = folder / CHAT_TEMPLATE
    return ChatTemplate(file.read_text(encoding="utf-8"), encoding) if file.is_file() else None


def _replace(value: Any, names: Sequence[str], escape: str) -> Any:
    """Return a message's values with the names of special tokens written so that they stay text."""
    if isinstance(value, str):
        for number, name in enumerate(names):
            value = value.replace(name, f"{escape}{number}{escape}")
        return value
    if isinstance(value, dict):
        return {_replace(key, names, escape): _replace(each, names, escape) for key, each in value.items()}
    return [_replace(each, names, escape) for each in value] if isinstance(value, list) else value


def _restore(text: str, names: Sequence[str], escape: str) -> str:
    return re.sub(f"{escape}(\\d+){escape}", lambda found: names[int(found[1])], text)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)  # as transformers has it: Jinja's own is for HTML


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
