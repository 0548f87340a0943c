"""evaluate: how a finished model is judged."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from gpt.params.types import (
    FileName,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Section,
    Text,
    not_empty,
)


class ForBenchmark(Section):
    """What may differ between benchmarks."""

    limit: NonNegativeInt
    "Items that are scored, the same ones always; 0: all."
    num_fewshot: NonNegativeInt
    "Solved examples before each item; of a task of lm-eval 0 leaves what the task says."


class Evaluate(Section):
    benchmarks: Annotated[tuple[FileName, ...], Field(strict=False)]
    "Files of data/benchmarks. `prepare` keeps their items out of the training documents."
    limit: NonNegativeInt
    num_fewshot: NonNegativeInt
    by_benchmark: dict[FileName, dict[str, Any]]
    "What is otherwise in `limit` and `num_fewshot` for a benchmark or task, by its name."
    tasks: Annotated[tuple[FileName, ...], Field(strict=False)]
    "Further tasks of lm-eval by name, whose items it brings from the network."
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    "Of the passes that score; as train.precision. Samples are written in fp32."
    max_tokens: NonNegativeInt
    "Score whole documents of at most so many tokens of each split, chosen by the hash of their ids, but at least one; 0: all."
    prompts: Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(not_empty)]
    "What the samples of the report begin with."
    max_new_tokens: PositiveInt
    "Tokens of a sample."
    temperature: NonNegativeFloat
    "0 takes the most likely token always."
    temperatures: Annotated[tuple[NonNegativeFloat, ...], Field(strict=False)]
    "Further ones, at which the report shows samples too."
    top_k: NonNegativeInt
    "Sample among the k most likely tokens; 0 among all."

    @model_validator(mode="after")
    def _benchmarks_are_named_once(self) -> Self:
        named = (*self.benchmarks, *self.tasks)
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"benchmarks and tasks: {', '.join(twice)} is named twice")
        return self

    @model_validator(mode="after")
    def _temperatures_are_named_once(self) -> Self:
        if twice := sorted({each for each in self.temperatures if self.temperatures.count(each) > 1}):
            raise ValueError(f"temperatures: {', '.join(map(str, twice))} is named twice")
        return self

    @model_validator(mode="after")
    def _benchmarks_differ_as_they_may(self) -> Self:
        for name in self.by_benchmark:
            if name not in (*self.benchmarks, *self.tasks):
                raise ValueError(f"by_benchmark.{name}: is neither among benchmarks nor tasks")
            try:
                self.of(name)
            except ValidationError as error:
                fault = error.errors(include_url=False)[0]
                place = ".".join(("by_benchmark", name, *map(str, fault["loc"])))
                known = f"not a known key; {' and '.join(ForBenchmark.model_fields)} can differ"
                message = known if fault["type"] == "extra_forbidden" else fault["msg"][0].lower() + fault["msg"][1:]
                raise ValueError(f"{place} = {fault['input']!r}: {message}") from None
        return self

    def all_temperatures(self) -> tuple[float, ...]:
        """Return at which temperatures there are samples, each once: `temperature` comes first."""
        return (self.temperature, *(each for each in self.temperatures if each != self.temperature))

    def of(self, name: str) -> ForBenchmark:
        """Return how a benchmark or task is scored: what params.yaml says of all, and otherwise of this one."""
        values = {"limit": self.limit, "num_fewshot": self.num_fewshot}
        return ForBenchmark.model_validate(values | self.by_benchmark.get(name, {}))
