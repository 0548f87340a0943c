"""`make verify`: every promise is tried whatever became of the others, and the table says what was seen."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import ROOT, fresh_clone
from tests.verify import PROMISES, Outcome, Promise, all_passed, last_line, main, takes_at_most

FAST = Promise("fast", "it is fast", (sys.executable, "-c", "print('0.1 | s')"), 1, last_line)
BROKEN = Promise(
    "broken", "it holds", (sys.executable, "-c", "print('lost 3 bytes'); raise SystemExit(4)"), 1, last_line
)
ENDLESS = Promise("endless", "it ends", (sys.executable, "-c", "import time; time.sleep(600)"), 0, last_line)


def table_of(path: Path) -> list[list[str]]:
    rows = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][2:]
    return [row.strip("| ").split(" | ") for row in rows]


def test_all_are_tried_and_one_that_is_not_met_is_the_exit_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "reports" / "verify.md"
    assert main(["--output", str(path)], [BROKEN, ENDLESS, FAST]) == 1
    assert [(row[0], row[-2], row[-1]) for row in table_of(path)] == [
        ("it holds", "lost 3 bytes", "no"),
        ("it ends", "not finished after 0 minutes", "no"),
        ("it is fast", "0.1 \\| s", "yes"),
    ]
    assert path.read_text(encoding="utf-8") in capfd.readouterr().out


def test_some_are_tried_by_name(tmp_path: Path) -> None:
    path = tmp_path / "verify.md"
    assert main(["fast", "--output", str(path)], [BROKEN, FAST]) == 0
    assert [row[0] for row in table_of(path)] == ["it is fast"]
    with pytest.raises(SystemExit) as refused:
        main(["slow"], [FAST])
    assert refused.value.code == 2


def test_the_list_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = tmp_path / "ran"
    touch = Promise("touch", "it touches", (sys.executable, "-c", f"open({str(mark)!r}, 'w')"), 1, last_line)
    assert main(["--list"], [touch]) == 0
    assert "it touches" in capsys.readouterr().out
    assert not mark.exists()


@pytest.mark.parametrize(
    ("body", "met"),
    [
        ("def test_a(): pass", "yes"),
        ("import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip('no right to mount')", "in part"),
        ("import pytest\ndef test_b(): pytest.skip('no right to mount')", "in part"),
        ("def test_a(): assert False", "no"),
        ("", "no"),
    ],
)
def test_pytests_summary_is_the_figure_and_a_skipped_test_is_a_promise_not_tried(
    tmp_path: Path, body: str, met: str
) -> None:
    (tmp_path / "test_it.py").write_text(body, encoding="utf-8")
    command = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    )
    path = tmp_path / "verify.md"
    code = main(["--output", str(path)], [Promise("it", "it passes", command, 1, all_passed)])
    ((*_, figure, verdict),) = table_of(path)
    assert verdict == met
    assert code == (met == "no")
    assert any(word in figure for word in ("passed", "skipped", "failed", "no tests ran"))


def test_a_time_is_the_median_of_its_repetitions() -> None:
    assert takes_at_most(0.3)(Outcome(0, (), (0.1, 0.2, 9.0))).met == "yes"
    late = takes_at_most(0.3)(Outcome(0, (), (0.1, 0.4, 0.5)))
    assert (late.met, late.figure) == ("no", "0.40 s (median of 3), at most 0.3 s")


@pytest.mark.slow
def test_every_promise_chooses_tests_that_exist_and_no_two_the_same() -> None:
    names = [promise.name for promise in PROMISES]
    assert len(set(names)) == len(names)
    chosen: list[str] = []
    for promise in PROMISES:
        files = [word for word in promise.command if word.startswith("tests/")]
        assert all((ROOT / file).exists() for file in files), promise.name
        if "-k" in promise.command:
            command = [*promise.command, "--collect-only"]
            found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
            chosen += [line for line in found.splitlines() if "::" in line]
    assert chosen
    assert len(set(chosen)) == len(chosen)


def test_what_a_fresh_clone_makes_differently_is_named_and_whether_the_run_says_why() -> None:
    stages = {"fetch": {"md5": "1"}, "pretrain": {"md5": "2"}, "evaluate": {"md5": "3"}}
    other = stages | {"pretrain": {"md5": "4"}, "report": {"md5": "5"}}
    before, after = (yaml.safe_dump({"schema": "2.0", "stages": lock}) for lock in (stages, other))
    assert fresh_clone.different_stages(before, before) == []
    assert fresh_clone.different_stages(before, after) == ["pretrain", "report"]
    assert fresh_clone.describe([], "", False) == "dvc.lock as committed, git status clean"
    assert (
        fresh_clone.describe(["pretrain"], " M dvc.lock\n M plots/training.csv\n", True)
        == "dvc.lock differs in pretrain, changed: dvc.lock plots/training.csv (the last lines say why)"
    )
