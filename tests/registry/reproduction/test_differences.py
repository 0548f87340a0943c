import copy
from typing import Any

import pytest

from gpt.registry.reproduction.differences import (
    describe_curve,
    describe_environment,
    describe_inputs,
    describe_packages,
    differing_outputs,
    differing_pages,
    machine_of,
    processor_of,
)

CURVE = b"step,train_loss,learning_rate\n4,5.5,0.1\n8,5.25,0.1\n12,5.0,0.1\n"
MADE = {
    "training": {"hardware": "2 of 4 x AMD EPYC, threads: 2", "threads": 2, "processes": 1},
    "environment": {"python": "3.11.7", "packages": {}},
}


def outs(**hashes: str) -> dict[str, Any]:
    return {path.replace("__", "/"): {"hash": value, "size": 1} for path, value in hashes.items()}


def test_only_results_differ_not_where_it_ran_nor_pages() -> None:
    recorded = outs(models__base="a", plots__training="b") | {
        "models/run.json": {"hash": "c"},
        "reports/data.html": {"hash": "d"},
    }
    found = copy.deepcopy(recorded)
    assert differing_outputs(recorded, found) == []
    found["models/run.json"]["hash"] = found["reports/data.html"]["hash"] = "other"
    assert differing_outputs(recorded, found) == []
    assert differing_pages(recorded, found) == ["reports/data.html"]
    found["plots/training"]["hash"] = "other"
    found["models/base"]["hash"] = "other"
    assert differing_outputs(recorded, found) == ["models/base", "plots/training"]


def test_an_output_that_is_gone_or_new_differs() -> None:
    assert differing_outputs(outs(data__tokens="a"), {}) == ["data/tokens"]
    assert differing_outputs({}, outs(data__tokens="a")) == ["data/tokens"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (CURVE, None),
        (CURVE.replace(b"5.25", b"5.26"), "the runs part between step 4 and step 8: train_loss was 5.25, is 5.26"),
        (CURVE.replace(b"4,5.5,0.1", b"4,5.5,0.2"), "between step 0 and step 4: learning_rate was 0.1, is 0.2"),
        (CURVE[: CURVE.index(b"12")], "the curve has 2 rows, and had 3"),
    ],
)
def test_the_step_from_which_a_loss_departs(found: bytes, said: str | None) -> None:
    line = describe_curve(CURVE, found, "train_loss")
    assert (line is None) if said is None else (line is not None and said in line)


def test_another_machine_is_named_by_what_decides_last_digits() -> None:
    assert describe_environment(MADE, "4 x AMD EPYC, threads: 2", 2, 1)[:1] in (
        [],
        [f"Python: was 3.11.7, is {_python()}"],
    )
    lines = describe_environment(MADE, "8 x Intel Xeon, threads: 8", 8, 2)
    assert lines[:3] == [
        "processor: was AMD EPYC, is Intel Xeon",
        "threads: were 2, are 8",
        "processes: were 1, are 2",
    ]
    assert describe_environment(MADE, "1 x NVIDIA H100", None, 1)[1] == "threads: were 2, are a GPU"


def test_a_machine_is_what_it_is_whatever_its_threads_are_just_now() -> None:
    assert machine_of("2 of 4 x AMD EPYC, threads: 2") == "2 of 4 x AMD EPYC"
    assert processor_of("2 of 4 x AMD EPYC") == processor_of("4 x AMD EPYC, threads: 1") == "AMD EPYC"
    assert machine_of("1 x NVIDIA H100") == "1 x NVIDIA H100"


def _python() -> str:
    import platform

    return platform.python_version()


def test_packages_that_were_not_there_then_decide_nothing() -> None:
    lines = describe_packages({"ftfy": "6.3", "torch": "2.13.0"}, {"torch": "2.13.0+cpu", "new": "1"})
    assert lines == ["package ftfy: was 6.3, is not installed", "package torch: was 2.13.0, is 2.13.0+cpu"]
    many = describe_packages({f"p{number}": "1" for number in range(40)}, {})
    assert len(many) == 40, "each is named"


def test_code_libraries_and_sources_are_named_of_the_stages_that_both_know() -> None:
    recorded = {
        "fetch": {
            "code": {"gpt/a.py": "1"},
            "versions": {"ftfy": "6.3"},
            "sources": [{"name": "made-up", "content": "x"}],
        },
        "gone": {"code": {"gpt/b.py": "1"}, "versions": {}},
    }
    found = copy.deepcopy({"fetch": recorded["fetch"]})
    assert describe_inputs(recorded, found) == []
    found["fetch"] |= {
        "code": {"gpt/a.py": "2"},
        "versions": {"ftfy": "7"},
        "sources": [{"name": "made-up", "content": "y"}],
    }
    assert describe_inputs(recorded, found) == [
        "source made-up: other content",
        "gpt/a.py: computes otherwise",
        "version of ftfy: was 6.3, is 7",
    ]
