"""Two models' scores side by side: on the same pieces, in one order."""

import numpy as np

from gpt.errors import UserError
from gpt.evaluation.scores import Items, Passages


def pair_items(candidate: Items, champion: Items) -> tuple[Items, Items]:
    """Return both in one order; raise `UserError` for the first item that differs or has no finite likelihood."""
    tables = []
    for items in (candidate, champion):
        keys = list(zip(items.benchmark, items.id, strict=True))
        tables.append(items.take(np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)))
    first, second = tables
    _check_same("item", _item_names(first), _item_names(second))
    for whose, items in zip(("candidate", "champion"), tables, strict=True):
        for name, nats in zip(_item_names(items), items.nats, strict=True):
            _check_finite(f"item {name[0]}", bool(np.isfinite(nats).all()), whose)
    return first, second


def pair_passages(candidate: Passages, champion: Passages) -> tuple[Passages, Passages]:
    """Return both, of one split, in one order; raise `UserError` for the first passage that differs or has no finite likelihood."""
    tables = []
    for passages in (candidate, champion):
        if len(splits := sorted(set(passages.split))) > 1:
            raise ValueError(f"passages of one split are compared, not of {' and '.join(splits)}")
        keys = list(zip(passages.document, passages.start, strict=True))
        tables.append(passages.take(np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)))
    first, second = tables
    _check_same("passage", _passage_names(first), _passage_names(second))
    for whose, passages in zip(("candidate", "champion"), tables, strict=True):
        for name, finite in zip(_passage_names(passages), np.isfinite(passages.nats), strict=True):
            _check_finite(f"passage {name[0]}", bool(finite), whose)
    return first, second


def _item_names(items: Items) -> list[tuple[str, str]]:
    return [
        (f"{name} of {benchmark}", f"answer {answer} of {len(nats)} choices, {sizes.tolist()} bytes")
        for name, benchmark, answer, nats, sizes in zip(
            items.id, items.benchmark, items.answer, items.nats, items.bytes, strict=True
        )
    ]


def _passage_names(passages: Passages) -> list[tuple[str, str]]:
    return [
        (f"at byte {start} of {split} document {document}", f"{size} bytes")
        for split, document, start, size in zip(
            passages.split, passages.document, passages.start, passages.bytes, strict=True
        )
    ]


def _check_same(kind: str, candidate: list[tuple[str, str]], champion: list[tuple[str, str]]) -> None:
    """Raise `UserError` for the first piece, (name, what it is), that is not the same in both."""
    if not candidate and not champion:
        raise UserError(f"no {kind} was scored: there is nothing to compare")
    if candidate == champion:
        return
    theirs = dict(champion)
    for name, what in candidate:
        if name not in theirs:
            raise UserError(
                f"{kind} {name}: only the candidate was scored on it; score both models on the same {kind}s"
            )
        if theirs[name] != what:
            raise UserError(
                f"{kind} {name}: {what} for the candidate, {theirs[name]} for the champion; score both on the same {kind}s"
            )
    own = dict(candidate)
    name = next((name for name, _ in champion if name not in own), None)
    if name is None:
        raise UserError(f"a {kind} is listed twice; score both models again")
    raise UserError(f"{kind} {name}: only the champion was scored on it; score both models on the same {kind}s")


def _check_finite(piece: str, finite: bool, whose: str) -> None:
    if not finite:
        raise UserError(f"{piece}: the {whose}'s likelihood is not a finite number; score it again")
