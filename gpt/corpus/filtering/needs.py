"""What filters need besides the text: fields of records, and files of the project that decide what they drop."""

from pathlib import Path

from gpt.code import installed_version
from gpt.errors import UserError
from gpt.files import sha256_file
from gpt.params.corpus import Prepare
from gpt.params.filters import FieldFilter, Filter, OwnFilter, UrlList


def needed_fields(filters: tuple[Filter, ...]) -> tuple[str, ...]:
    """Return the fields that filters look at, though the metadata may not have them; raise `UserError` for a class that is none."""
    found: list[str] = []
    for each in filters:
        if isinstance(each, FieldFilter | UrlList):
            found.append(each.field)
        elif isinstance(each, OwnFilter):
            from gpt.corpus.filtering.own import load_class  # imports datatrove, for which most settings need not wait

            found += load_class(each.class_).fields
    return tuple(dict.fromkeys(found))


def filter_files(settings: Prepare) -> dict[str, str]:
    """Return by path the hash of each file that decides what filters drop: lists of addresses, and the code of own classes.

    Of a class in an installed package it is the package's version. Raises `UserError` for a file that is not there.
    """
    found: dict[str, str] = {}
    for filters in (settings.filters, *(settings.of(source).filters for source in settings.by_source)):
        for each in filters:
            if isinstance(each, UrlList):
                if not Path(each.url_list).is_file():
                    raise UserError(
                        f"params.yaml: prepare.filters: url_list = {each.url_list!r}: there is no such file; write a host or an"
                        " address a line into it, or correct the path"
                    )
                found[each.url_list] = sha256_file(Path(each.url_list))
            elif isinstance(each, OwnFilter):
                from gpt.corpus.filtering.own import load_class, module_files

                own = load_class(each.class_)
                found |= module_files(own) or {own.distribution: installed_version(own.distribution)}
    return dict(sorted(found.items()))
