"""The bodies of requests, as OpenAI has them: what is out of range, or of no meaning here, is refused and not ignored."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gpt.model.sampling import Sampling

MAX_CHOICES = 8
# OpenAI's fields that change nothing here, and those that do but for these values.
_IGNORED = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls",
}  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
}
Text = Annotated[str, Field(max_length=1 << 20)]
Token = Annotated[int, Field(ge=0)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(ge=1, le=1 << 30)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_neutral_fields(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kept: dict[str, Any] = {}
        for name, value in values.items():
            if name in _IGNORED or (name in _NEUTRAL and (value is None or value in _NEUTRAL[name])):
                continue
            if name in _NEUTRAL and name not in cls.model_fields:
                raise ValueError(f"{name}: this server has no such setting; leave it out")
            kept[name] = value
        return kept


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: bool = False


class _Generating(_Body):
    """What completions and chats have in common; null is what is not given."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | list[Stop] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if isinstance(self.stop, list) and len(self.stop) > 16:
            raise ValueError("stop: at most 16 strings")
        if self.stream_options and not self.stream:
            raise ValueError("stream_options: only with stream")
        return self

    def sampling(self, max_new_tokens: int, seed: int) -> Sampling:
        """Return how tokens are chosen; OpenAI's temperature is 1 where none is given."""
        stop = () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        return Sampling(
            max_new_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            stop=stop,
            seed=seed % 2**63,
        )


class Completion(_Generating):
    """POST /v1/completions."""

    prompt: Text | list[Text] | list[Token] | list[list[Token]]
    max_tokens: Count | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    "The last so many tokens of a prompt are read; -1: as many as leave room for max_tokens. As vLLM has it."

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and all(isinstance(each, int) for each in self.prompt):
            return [[each for each in self.prompt if isinstance(each, int)]]
        return [each for each in self.prompt if not isinstance(each, int)]

    @property
    def alternatives(self) -> int | None:
        return self.logprobs


class Chat(_Generating):
    """POST /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=10_000)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _has_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: only with logprobs")
        return self

    @property
    def most_tokens(self) -> int | None:
        """The newer name counts where both are given."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class Classify(_Body):
    """POST /v1/classify, as vLLM has it."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=1024)]

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input
