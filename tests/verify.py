"""The long forms of all promises, by one command: `make verify`, or `python -m tests.verify [NAME …]`.

A promise is a row of `PROMISES`: whoever adds a promise to the project adds its row. No failure keeps the others from being tried.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpt.processes.trees.running import run
from tests import ROOT

REPORT = Path("reports/verify.md")


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code (None: it took longer than it may), its lines, and the seconds of each repetition."""

    exit_code: int | None
    lines: tuple[str, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    met: str
    "yes, no, or `in part`: something cannot be tried on this machine."
    figure: str


@dataclass(frozen=True)
class Promise:
    name: str
    sentence: str
    command: tuple[str, ...]
    minutes: int
    "It is stopped, and not met, after so many."
    read: Callable[[Outcome], Verdict]
    "Gets the outcome of a command that ended by itself with exit code 0."
    repeats: int = 1


def all_passed(outcome: Outcome) -> Verdict:
    """Read pytest's summary; tests that were skipped, without the right to mount for example, are promises not tried."""
    summary = next((line for line in reversed(outcome.lines) if re.search(r"\d+ (passed|skipped)", line)), "no summary")
    summary = summary.strip("= ")
    passed, skipped = (
        int(found[1]) if (found := re.search(rf"(\d+) {what}", summary)) else 0 for what in ("passed", "skipped")
    )
    return Verdict("in part" if skipped else "yes" if passed else "no", summary)


def takes_at_most(limit_seconds: float) -> Callable[[Outcome], Verdict]:
    """Return a reader of the median time of the repetitions."""

    def read(outcome: Outcome) -> Verdict:
        median = statistics.median(outcome.seconds)
        figure = f"{median:.2f} s (median of {len(outcome.seconds)}), at most {limit_seconds:g} s"
        return Verdict("yes" if median <= limit_seconds else "no", figure)

    return read


def tried_where_it_can(outcome: Outcome) -> Verdict:
    """Take the last line of a command that leaves out what it finds no interpreter for, and says so."""
    return Verdict("in part" if " is not here" in outcome.lines[-1] else "yes", outcome.lines[-1])


def last_line(outcome: Outcome) -> Verdict:
    """Take the last line for the figure of a command whose exit code says whether the promise is kept."""
    return Verdict("yes", outcome.lines[-1] if outcome.lines else "")


PYTHON = sys.executable
PYTEST = (PYTHON, "-m", "pytest", "-q", "-m", "slow or not slow")  # without what pyproject.toml leaves out
CHAOS = (PYTHON, "-m", "pytest", "-q", "-m", "chaos")
KILLS, COMMITTED = "tests/chaos/test_kills.py", "committed_settings"

PROMISES = (
    Promise(
        "help",
        "`gpt --help` answers at once",
        (str(Path(sys.prefix) / "bin" / "gpt"), "--help"),
        minutes=1,
        read=takes_at_most(0.3),
        repeats=9,
    ),
    Promise(
        "room",
        "`gpt gc` removes nothing that the champion, or anything that stays, needs; what kills left is put right, once",
        (*PYTEST, "tests/maintenance", "tests/e2e/test_gc.py"),
        minutes=30,
        read=all_passed,
    ),
    Promise(
        "kills",
        "60 kills, many inside a save, end with the bytes of a run that was left alone",
        (*CHAOS, KILLS, "-k", f"not {COMMITTED}", "--chaos-kills", "60"),
        minutes=90,
        read=all_passed,
    ),
    Promise(
        "kills-committed",
        "30 kills on the committed settings, checkpoints damaged in turn: the same bytes",
        (*CHAOS, KILLS, "-k", f"{COMMITTED} and nothing", "--chaos-kills", "60"),
        minutes=60,
        read=all_passed,
    ),
    Promise(
        "kills-busy",
        "the same beside processes that keep all cores busy",
        (*CHAOS, KILLS, "-k", f"{COMMITTED} and busy", "--chaos-kills", "60"),
        minutes=120,
        read=all_passed,
    ),
    Promise(
        "stops",
        "10 signals to each command that trains: saved, nothing left running, goes on to the same bytes",
        (*CHAOS, "tests/chaos/test_stops.py", "--chaos-stops", "10"),
        minutes=60,
        read=all_passed,
    ),
    Promise(
        "outage",
        "a minute without a tracking server costs no metric",
        (*CHAOS, "tests/chaos/test_server.py", "--chaos-outage", "60"),
        minutes=15,
        read=all_passed,
    ),
    Promise(
        "full-disk",
        "a disk that is full loses nothing",
        (*CHAOS, "tests/chaos/test_full_disk.py"),
        minutes=10,
        read=all_passed,
    ),
    Promise(
        "changes",
        "a change runs the stages whose bytes it can change, and no other",
        (PYTHON, "-m", "pytest", "-q", "-m", "long", "tests/e2e/test_changes.py"),
        minutes=30,
        read=all_passed,
    ),
    Promise(
        "queue",
        "five queued experiments are five runs with curves",
        (PYTHON, "-m", "pytest", "-q", "-m", "long", "tests/e2e/test_experiments.py"),
        minutes=15,
        read=all_passed,
    ),
    Promise(
        "sweep",
        "12 trials on 2 workers, everything killed half-way and started again: 12 experiments and 12 child runs that agree",
        (PYTHON, "-m", "pytest", "-q", "-m", "slow and long", "tests/e2e/test_sweeps.py"),
        minutes=30,
        read=all_passed,
    ),
    Promise(
        "finetune-kills",
        "12 kills of each method of fine-tuning, in one process and in two: the same bytes",
        (PYTHON, "-m", "pytest", "-q", "-m", "long", "tests/finetuning/test_finetune.py"),
        minutes=90,
        read=all_passed,
    ),
    Promise(
        "server",
        "half an hour of mixed load with clients that leave, nonsense and promotions: no valid request fails, memory stays flat",
        (PYTHON, "-m", "pytest", "-q", "-s", "-m", "long", "tests/serving/test_soak.py"),
        minutes=45,
        read=all_passed,
    ),
    Promise(
        "machines",
        "a machine that is cut off or lost, and comes back, trains on to the same bytes",
        (*CHAOS, "tests/chaos/test_machines.py", "--chaos-outage", "60"),
        minutes=20,
        read=all_passed,
    ),
    Promise(
        "processes",
        "two processes train what one does, whole or split, also when their number changes on the way",
        (*PYTEST, "tests/training/test_process_counts.py", "tests/training/test_trainer.py", "tests/processes"),
        minutes=20,
        read=all_passed,
    ),
    Promise(
        "damage",
        "a checkpoint that is truncated, changed or incomplete is noticed and the one before it used",
        (*PYTEST, "tests/training/checkpoints/test_checkpoint.py", "tests/training/checkpoints/test_saver.py"),
        minutes=5,
        read=all_passed,
    ),
    Promise(
        "documents",
        "documents are the same bytes for any workers and engine, and after kills",
        (*PYTEST, "tests/corpus/test_prepare.py"),
        minutes=20,
        read=all_passed,
    ),
    Promise(
        "tokens",
        "tokens are the same bytes for any workers and engine, and after kills",
        (*PYTEST, "tests/tokens/test_tokenize.py"),
        minutes=20,
        read=all_passed,
    ),
    Promise(
        "leaks",
        "planted leaks of benchmarks and held-out documents are found, near misses stay",
        (*PYTEST, "tests/corpus/test_decontamination.py"),
        minutes=10,
        read=all_passed,
    ),
    Promise(
        "secrets",
        "a secret in every place where one may stand, every command and the flow run: none is seen anywhere",
        (
            *PYTEST,
            "tests/test_secrets.py",
            "tests/test_scanner.py",
            "tests/registry/test_disclosure.py",
            "tests/tracking/test_disclosure.py",
            "tests/flows/test_disclosure.py",
            "tests/e2e/test_secrets.py",
        ),
        minutes=40,
        read=all_passed,
    ),
    Promise(
        "serving",
        "a served champion answers 200 malformed requests with a 4xx that says why, 200 valid ones as `gpt generate` does",
        (*PYTEST, "tests/registry/test_serving.py", "tests/registry/test_served.py", "tests/registry/test_pyfunc.py"),
        minutes=20,
        read=all_passed,
    ),
    Promise(
        "export",
        "what transformers writes by default from an exported model is what `gpt generate` writes, for every architecture",
        (*PYTEST, "tests/model/convert"),
        minutes=15,
        read=all_passed,
    ),
    Promise(
        "boilerplate",
        "100,000 documents that share boilerplate as READMEs do lose at most 1 % of their bytes, 200 of 200 leaks are found",
        (PYTHON, "-m", "tests.corpus.test_boilerplate", "100000"),
        minutes=60,
        read=last_line,
    ),
    Promise(
        "environment",
        "200 random broken environments over all commands: no traceback, no exit code but ours, no stray file",
        (*PYTEST, "tests/e2e/test_broken_environment.py", "--environments", "200"),
        minutes=90,
        read=all_passed,
    ),
    Promise(
        "servers",
        "faults on the servers of `make up` while a scheduled run trains: it goes on, ends with the same bytes, and says so",
        (*PYTEST, "tests/chaos/test_scheduled.py", "tests/flows/upkeep", "tests/infra/test_servers.py"),
        minutes=90,
        read=all_passed,
    ),
    Promise(
        "restore",
        "backup, destroy all, restore in a fresh clone: the champion loads and is made again, flow runs are there, secrets are not",
        (*PYTEST, "tests/infra/servers/test_backup.py", "tests/infra/servers/test_snapshots.py"),
        minutes=30,
        read=all_passed,
    ),
    Promise(
        "upgrade",
        "databases that the releases before made are upgraded after a backup, with all they hold, and back",
        (*PYTEST, "tests/infra/servers/test_upgrade.py"),
        minutes=20,
        read=all_passed,
    ),
    Promise(
        "accounts",
        "with accounts and behind nginx: who trains cannot promote, nobody sees anything without a password, names and TLS hold",
        (*PYTEST, "tests/infra/servers/test_accounts.py", "tests/infra/servers/test_proxy.py"),
        minutes=30,
        read=all_passed,
    ),
    Promise(
        "repro",
        "a second `dvc repro` does nothing, a forced one gives the same bytes",
        (*PYTEST, "tests/e2e/test_pipeline.py"),
        minutes=20,
        read=all_passed,
    ),
    Promise(
        "reproduce",
        "ten of ten versions are made again identical, also after a kill; a change of source, setting, code or package is named",
        (
            *PYTEST,
            "tests/e2e/test_reproduce.py",
            "tests/e2e/test_reproduce_beginnings.py",
            "tests/registry/reproduction",
        ),
        minutes=60,
        read=all_passed,
    ),
    Promise(
        "reproduce-default",
        "the default run's version is made again identical: left alone, and after SIGTERM and SIGKILL; the project stays as it was",
        (PYTHON, "-m", "tests.remaking"),
        minutes=90,
        read=last_line,
    ),
    Promise(
        "projects",
        "nanoGPT's figures come out of a template, and in 0.12 of its time of another; projects need the installed package alone",
        (*PYTEST, "tests/projects"),
        minutes=20,
        read=all_passed,
    ),
    Promise(
        "fresh-clone",
        "`make demo` in a fresh clone gives the committed dvc.lock and a clean `git status`, or its last lines say why not",
        (PYTHON, "-m", "tests.fresh_clone"),
        minutes=45,
        read=last_line,
    ),
    Promise(
        "pythons",
        "the lock is what each named Python resolves to, on x86-64 and arm64, from wheels alone",
        (PYTHON, "-m", "tests.pythons"),
        minutes=20,
        read=last_line,
    ),
    Promise(
        "elsewhere",
        "`make demo` and `make test` pass in a folder `a b/ü`, as another user, cut off, on the oldest and newest Python",
        (PYTHON, "-m", "tests.elsewhere"),
        minutes=240,
        read=tried_where_it_can,
    ),
    Promise(
        "folders",
        "the whole way works in a folder of any name",
        (*PYTEST, "tests/e2e/test_paths.py"),
        minutes=30,
        read=all_passed,
    ),
    Promise(
        "benchmarks",
        "500 items of each benchmark score as with lm-eval's model of Hugging Face, log-likelihoods to 1e-4, 1.5 times as fast",
        (PYTHON, "-m", "benchmarks.lm"),
        minutes=60,
        read=last_line,
    ),
    Promise(
        "evaluation",
        "two processes evaluate to the very bytes of one; a signal while items are scored leaves nothing half written",
        (*PYTEST, "tests/evaluation"),
        minutes=30,
        read=all_passed,
    ),
    Promise(
        "promotions",
        "50 promotions and rollbacks at once, of one MLflow server on PostgreSQL: never two champions, one linear history",
        (*PYTEST, "tests/registry/test_concurrency.py"),
        minutes=60,
        read=all_passed,
    ),
    Promise(
        "registry-faults",
        "the MLflow server is killed at each request of register, promote and rollback: run again, all is as without the fault",
        (*PYTEST, "tests/registry/test_faults.py"),
        minutes=240,
        read=all_passed,
    ),
    Promise(
        "intervals",
        "of 1,000 simulated comparisons of each kind, 95 % intervals hold the true difference in 92.5 to 97 %",
        (*PYTEST, "tests/evaluation/test_comparison.py"),
        minutes=30,
        read=all_passed,
    ),
    Promise(
        "gate",
        "5 seeds each, trained on plays: worse, same, contaminated and foreign models are refused, better ones promoted",
        (*PYTEST, "tests/registry/test_verdicts.py"),
        minutes=60,
        read=all_passed,
    ),
)


def main(arguments: Sequence[str] | None = None, promises: Sequence[Promise] = PROMISES) -> int:
    """Try promises, print the table and write it to a file; return 1 if one is not met."""
    parser = argparse.ArgumentParser(prog="python -m tests.verify", description="Try the long forms of all promises.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="promises to try (default: all); --list shows them")
    parser.add_argument("--list", action="store_true", help="show names, promises and commands, and run nothing")
    parser.add_argument("--output", type=Path, default=ROOT / REPORT, help=f"file of the table ({REPORT})")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - {promise.name for promise in promises}):
        parser.error(
            f"{', '.join(unknown)}: no such promise; there are {', '.join(promise.name for promise in promises)}"
        )
    if options.list:
        for promise in promises:
            print(f"{promise.name:<16} {promise.sentence}\n{'':<16} {shown(promise.command)}")
        return 0
    chosen = [promise for promise in promises if not options.names or promise.name in options.names]
    verdicts: list[tuple[Promise, Verdict]] = []
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for promise in chosen:
        print(f"{promise.name}: {shown(promise.command)}", flush=True)
        outcome = attempt(promise)
        verdicts.append((promise, judge(promise, outcome)))
        if verdicts[-1][1].met != "yes":
            print("\n".join(f"    {line}" for line in outcome.lines[-60:]))
        print(f"    {verdicts[-1][1].met}: {verdicts[-1][1].figure}", flush=True)
        options.output.write_text(
            table(verdicts), encoding="utf-8"
        )  # after each: an interrupted run keeps what it told
    print(f"\n{table(verdicts)}\n{options.output}: written")
    return 1 if any(verdict.met == "no" for _, verdict in verdicts) else 0


def attempt(promise: Promise) -> Outcome:
    """Run a promise's command, its whole process tree ours, at most as long as it may take."""
    lines: list[str] = []
    seconds: list[float] = []
    deadline = time.monotonic() + 60 * promise.minutes
    exit_code: int | None = None
    with suppress(TimeoutError):
        for _ in range(promise.repeats):
            started = time.monotonic()
            exit_code = None
            exit_code = run(
                promise.command, cwd=ROOT, on_line=lines.append, timeout_seconds=max(1.0, deadline - started)
            )
            seconds.append(time.monotonic() - started)
            if exit_code:
                break
    return Outcome(exit_code, tuple(line for line in lines if line.strip()), tuple(seconds))


def judge(promise: Promise, outcome: Outcome) -> Verdict:
    """Say whether a promise is met: a command that failed, or was stopped, meets none."""
    if outcome.exit_code is None:
        return Verdict("no", f"not finished after {promise.minutes} minutes")
    if outcome.exit_code:
        return Verdict("no", outcome.lines[-1].strip("= ") if outcome.lines else f"exit code {outcome.exit_code}")
    return promise.read(outcome)


def table(verdicts: Sequence[tuple[Promise, Verdict]]) -> str:
    """Return the verdicts as a Markdown table under a line that says what was tried and where."""
    cells = [
        (promise.sentence, f"`{shown(promise.command)}`", verdict.figure, verdict.met) for promise, verdict in verdicts
    ]
    rows = [f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in row)} |" for row in cells]
    head = ["| promise | command | figure | met |", "| --- | --- | --- | --- |"]
    return "\n".join([f"# Promises, tried at commit {_commit()}", "", *head, *rows, ""])


def shown(command: Sequence[str]) -> str:
    """Return a command as a person would type it in the project's environment."""
    words = [Path(word).name if word.startswith(sys.prefix) else word for word in command]
    return " ".join(f'"{word}"' if " " in word else word for word in words)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
