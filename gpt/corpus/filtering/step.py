"""The third step of the data pipeline: filters, and a count of all that they drop."""

import warnings
from collections import Counter
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

from gpt.corpus.filtering.quality import build_filters
from gpt.corpus.sampling.sample import Sample, describe
from gpt.params import corpus as params

_KINDS = {
    GopherQualityFilter: "gopher_quality",
    GopherRepetitionFilter: "gopher_repetition",
    C4QualityFilter: "c4",
    FineWebQualityFilter: "fineweb",
}
_EXAMPLES = 3
_EXAMPLE_CHARACTERS = 200


class Filtered(PipelineStep):
    """Run filters one after the other, those of a document's source, and count, by filter and reason, what goes."""

    type = "FILTER"
    name = "quality"

    def __init__(self, settings: params.Prepare) -> None:
        """Raise `UserError` for a language model or a class that is not there."""
        super().__init__()
        self._filters = build_filters(settings.filters)
        self._by_source = {
            source: build_filters(settings.of(source).filters)
            for source, change in settings.by_source.items()
            if "filters" in change
        }
        self.sample = Sample()
        "Dropped ones, at random."
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
                document.metadata["steps"].append((kind, document.text))
                self.bytes[kind, "lines"] += len(text.encode()) - len(document.text.encode())
            return True
        key = kind, reason or ("dropped" if document.text.strip() else "empty")
        self.documents[key] += 1
        self.bytes[key] += len(text.encode())
        examples = self.examples.setdefault(key, [])
        if len(examples) < _EXAMPLES:
            examples.append({"id": document.id, "text": text[:_EXAMPLE_CHARACTERS]})
        self.sample.add(document.metadata["source"], f"{kind}: {key[1]}", document.id, lambda: describe(document, text))
        return False
