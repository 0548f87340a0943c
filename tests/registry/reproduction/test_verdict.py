"""What came of a reproduction, in words and with the version."""

import json
from pathlib import Path

from gpt.params.project import Params
from gpt.registry.package import register
from gpt.registry.reproduction.reproduce import REPRODUCED, Verdict, note
from gpt.registry.versions import find
from gpt.tracking import store

URI = "models:/small-gpt/1"


def verdict(number: int = 0, **values: object) -> Verdict:
    return Verdict(URI, f"2026-11-26T20:00:{number:02d}.000000Z", "2 x AMD EPYC, threads: 2", "5f8c", **values)  # pyright: ignore[reportArgumentType]


def test_a_page_that_is_drawn_otherwise_is_told_and_is_no_difference() -> None:
    drawn = verdict(pages=["reports/evaluate"])
    assert drawn.identical
    assert drawn.describe().splitlines() == [
        f"{URI}: identical, weights 5f8c",
        "  drawn otherwise, as by another version of a library: reports/evaluate; a page is no result",
    ]


def test_what_differs_first_is_told_with_where_and_why_and_whether_the_weights_are_the_same() -> None:
    told = verdict(first="evaluation", details=["reports/evaluate.json: was 1, is 2"], same_weights=True).describe()
    assert told.splitlines() == [
        f"{URI}: differs, first in: evaluation; the weights are identical",
        "  reports/evaluate.json: was 1, is 2",
        "  code, packages, processor and threads are those of then",
    ]
    told = verdict(first="weights", reasons=["threads: were 2, are 4"]).describe()
    assert told.splitlines() == [
        f"{URI}: differs, first in: weights",
        "  why that may be:",
        "    threads: were 2, are 4",
    ]


def test_the_last_verdicts_are_kept_with_the_version_with_date_machine_and_outcome(
    project: Path, params: Params
) -> None:
    register(params, project)
    client = store.client()
    version = find(client, "small-gpt", 1)
    assert version
    for number in range(22):
        note(client, version, verdict(number, first="weights" if number == 20 else ""))
    found = client.get_model_version("small-gpt", "1").tags
    assert found[REPRODUCED] == "2026-11-26 20:00:21 UTC, 2 x AMD EPYC, threads: 2: identical, weights 5f8c"
    kept = sorted(name for name in found if name.startswith(f"{REPRODUCED}."))
    assert len(kept) == 20
    assert kept[-1] == f"{REPRODUCED}.2026-11-26T20:00:21.000000Z"
    assert [json.loads(found[name])["identical"] for name in kept[-3:]] == [True, False, True]
