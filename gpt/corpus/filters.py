"""The quality filters of params.yaml: the third step of the data pipeline.

The rules are datatrove's; what is decided here is which of them run, and that everything dropped is counted.
"""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter, get_filter_result

from gpt.errors import UserError
from gpt.files import sha256_file
from gpt.params import corpus as params

_KINDS = {
    GopherQualityFilter: "gopher_quality",
    GopherRepetitionFilter: "gopher_repetition",
    C4QualityFilter: "c4",
    FineWebQualityFilter: "fineweb",
}
_EXAMPLES = 3
_EXAMPLE_CHARACTERS = 200


def build_filters(settings: tuple[params.Filter, ...]) -> list[BaseFilter]:
    """Return datatrove's filters as params.yaml has them; raise `UserError` for a language model that is not there."""
    return [_build_filter(filter_) for filter_ in settings]


def _build_filter(settings: params.Filter) -> BaseFilter:
    values: dict[str, Any] = settings.model_dump(exclude={"kind"})
    bounds: dict[str, Any] = {name: value or None for name, value in values.items()}
    match settings:
        case params.GopherQuality():
            return GopherQualityFilter(**bounds)
        case params.GopherRepetition():
            for name in ("top_n_grams", "dup_n_grams"):
                bounds[name] = tuple(sorted(values[name].items()))
            return GopherRepetitionFilter(**bounds)
        case params.C4():
            return C4QualityFilter(**values)
        case params.FineWeb():
            return FineWebQualityFilter(**values)
        case params.Language():
            return LanguageFilter(settings)


class LanguageFilter(BaseFilter):
    """Keep documents of some languages, by a fastText model in a file; datatrove's own would download one."""

    name = "language"

    def __init__(self, settings: params.Language) -> None:
        """Check the model's file; raise `UserError` if it is missing or another."""
        super().__init__()
        self.settings = settings
        path = Path(settings.model)
        where = f"params.yaml: prepare.filters: language: model {path}"
        if not path.is_file():
            raise UserError(
                f"{where} not found; it is a fastText model such as lid.176.bin of fasttext.cc or GlotLID's model.bin:"
                " put it there, and its hash in model_sha256"
            )
        if (found := sha256_file(path)) != settings.model_sha256:
            raise UserError(f"{where}: model_sha256 is {settings.model_sha256}, but the file has {found}")
        self._model: Any = None

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Tell whether one of the languages is likely enough; the reason is the likeliest one."""
        if self._model is None:  # in the process that filters: it cannot be pickled
            self._model = _load_model(self.settings.model)
        labels, scores = self._model.predict(doc.text.replace("\n", " "), k=-1)
        likely = dict(zip((label.removeprefix("__label__") for label in labels), scores, strict=True))
        if any(likely.get(language, 0.0) >= self.settings.threshold for language in self.settings.languages):
            return True
        return False, max(likely, key=likely.__getitem__, default="unknown")


def _load_model(file: str) -> Any:
    from fasttext.FastText import _FastText

    try:
        return _FastText(file)  # fasttext.load_model, but for a warning on stderr
    except ValueError as error:
        raise UserError(f"params.yaml: prepare.filters: language: model {file}: no fastText model ({error})") from None


class Filtered(PipelineStep):
    """Run filters one after the other, those of a document's source, and count, by filter and reason, what goes."""

    type = "FILTER"
    name = "quality"

    def __init__(self, settings: params.Prepare) -> None:
        """Raise `UserError` for a language model that is not there."""
        super().__init__()
        self._filters = build_filters(settings.filters)
        self._by_source = {
            source: build_filters(settings.of(source).filters)
            for source, change in settings.by_source.items()
            if "filters" in change
        }
        self.documents = Counter[tuple[str, str]]()
        "Dropped, by filter and reason."
        self.bytes = Counter[tuple[str, str]]()
        "UTF-8 bytes of the dropped documents, and under reason `lines` of what kept ones lost."
        self.examples: dict[tuple[str, str], list[dict[str, str]]] = {}

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        for document in data:
            filters = self._by_source.get(document.metadata["source"], self._filters)
            if all(self._passes(filter_, document) for filter_ in filters):
                yield document

    def report(self) -> dict[str, Any]:
        """Return the counts as plain JSON: filter, reason, then documents, bytes and examples (id, first characters)."""
        counts: dict[str, Any] = {}
        for (kind, reason), size in sorted(self.bytes.items()):
            key = kind, reason
            counts.setdefault(kind, {})[reason] = {
                "documents": self.documents[key],
                "bytes": size,
                "examples": self.examples.get(key, []),
            }
        return counts

    def _passes(self, filter_: BaseFilter, document: Document) -> bool:
        kind = _KINDS.get(type(filter_), filter_.name)
        text = document.text
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of a mean over no words
            kept, reason = get_filter_result(filter_.filter(document))
        if kept and document.text.strip():
            if document.text != text:
                self.bytes[kind, "lines"] += len(text.encode()) - len(document.text.encode())
            return True
        key = kind, reason or "empty"
        self.documents[key] += 1
        self.bytes[key] += len(text.encode())
        examples = self.examples.setdefault(key, [])
        if len(examples) < _EXAMPLES:
            examples.append({"id": document.id, "text": text[:_EXAMPLE_CHARACTERS]})
        return False
