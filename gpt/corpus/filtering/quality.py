"""The filters of params.yaml. The quality rules are datatrove's; what is decided here is which of them run."""

from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter

from gpt.corpus.filtering.own import Own
from gpt.corpus.filtering.rules import BlockedUrls, FieldRule
from gpt.errors import UserError
from gpt.files import sha256_file
from gpt.params import filters as params


def build_filters(settings: tuple[params.Filter, ...]) -> list[BaseFilter]:
    """Return the filters that params.yaml has; raise `UserError` for a language model or a class that is not there."""
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
        case params.FieldFilter():
            return FieldRule(settings)
        case params.UrlList():
            return BlockedUrls(settings)
        case params.OwnFilter():
            return Own(settings)


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
