"""What clients get, as OpenAI has it: of completions and of chats, whole and in chunks.

Fields that OpenAI has not are named in docs/serving.md.
"""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gpt.serving.engine.request import Finish, Likelihood, Piece, Request

Json = dict[str, Any]


@dataclass
class Answer:
    """What has come so far of an answer."""

    text: str = ""
    tokens: list[Likelihood] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish = piece.finish


class Reply(ABC):
    """One reply to one body, with as many choices as there are requests."""

    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, model: str, requests: Sequence[Request]) -> None:
        self.requests = list(requests)
        self._head: Json = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def first_chunks(self) -> list[Json]:
        """Return what a stream begins with."""
        return []

    def chunk(self, piece: Piece) -> Json:
        """Return a piece as a part of a stream."""
        choice = self.piece(piece) | {"finish_reason": piece.finish}
        return self._chunk([{"index": self.requests.index(piece.request), **choice}])

    def usage_chunk(self) -> Json:
        return self._chunk([]) | {"usage": self.usage()}

    def whole(self, answers: Sequence[Answer]) -> Json:
        choices = [
            {"index": index, **self.answer(answer), "finish_reason": answer.finish}
            for index, answer in enumerate(answers)
        ]
        return {**self._head, "object": self.kind, "choices": choices, "usage": self.usage()}

    def usage(self) -> Json:
        """Return how many tokens were read and written; choices of one prompt read it once."""
        prompts = {id(request.prompt): len(request.prompt) for request in self.requests}
        read, written = sum(prompts.values()), sum(request.written for request in self.requests)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def _chunk(self, choices: list[Json]) -> Json:
        return {**self._head, "object": self.chunk_kind, "choices": choices}

    @abstractmethod
    def piece(self, piece: Piece) -> Json: ...

    @abstractmethod
    def answer(self, answer: Answer) -> Json: ...


class CompletionReply(Reply):
    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def piece(self, piece: Piece) -> Json:
        return {"text": piece.text, "logprobs": self._logprobs(piece.request, piece.tokens)}

    def answer(self, answer: Answer) -> Json:
        request = self.requests[0]  # all ask for likelihoods, or none does
        return {"text": answer.text, "logprobs": self._logprobs(request, answer.tokens)}

    @staticmethod
    def _logprobs(request: Request, tokens: Sequence[Likelihood]) -> Json | None:
        if request.alternatives is None:
            return None
        return {
            "tokens": [_text(token.content) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            # Parts of characters may have one text: the likeliest has the name.
            "top_logprobs": [{_text(each): nats for each, nats in reversed(token.alternatives)} for token in tokens],
            "text_offset": [token.offset for token in tokens],
            "bytes": [list(token.content) for token in tokens],
        }


class ChatReply(Reply):
    kind, chunk_kind = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(self, model: str, requests: Sequence[Request], dropped: int) -> None:
        """`dropped` is how many of the oldest messages had no room in the context."""
        super().__init__(model, requests)
        self._dropped = dropped

    def first_chunks(self) -> list[Json]:
        choices = [
            {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            for index in range(len(self.requests))
        ]
        return [self._chunk(choices) | {"dropped_messages": self._dropped}]

    def piece(self, piece: Piece) -> Json:
        delta = {"content": piece.text} if piece.text else {}
        return {"delta": delta, "logprobs": self._logprobs(piece.request, piece.tokens)}

    def answer(self, answer: Answer) -> Json:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        return {"message": message, "logprobs": self._logprobs(self.requests[0], answer.tokens)}

    def whole(self, answers: Sequence[Answer]) -> Json:
        return super().whole(answers) | {"dropped_messages": self._dropped}

    @staticmethod
    def _logprobs(request: Request, tokens: Sequence[Likelihood]) -> Json | None:
        if request.alternatives is None:
            return None
        content = [
            _token(token.content, token.logprob) | {"top_logprobs": [_token(*each) for each in token.alternatives]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}


def _token(content: bytes, logprob: float) -> Json:
    return {"token": _text(content), "logprob": logprob, "bytes": list(content)}


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")
