"""One trial from its values to its record: `dvc repro` in a copy, watched, and an experiment of DVC and a run of MLflow in the end.

Every step can be the last one before a kill. Training goes on from its checkpoint, stages that are done come from DVC's cache,
how a trial ended is written down before anything is told of it, and telling it twice changes nothing.
"""

import json
import math
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from gpt import git, paths
from gpt.errors import UserError
from gpt.files import read_json
from gpt.locks import locked
from gpt.processes.trees.running import run
from gpt.secrets.hiding import redact
from gpt.sweeps import runs
from gpt.sweeps.copies import Copy
from gpt.sweeps.pruning import judge
from gpt.sweeps.records import COMPLETE, FAILED, PRUNED, RUNNING, WAITING, About, Records, Trial
from gpt.sweeps.settings import CURVES, Sweep
from gpt.sweeps.watch import Watch, read_curve
from gpt.tracking.pages.source import SWEEP_PARENT, SWEEP_TRIAL

_TRAINS = re.compile(r"(Running stage|Stage) 'pretrain'")
"Said when data are there: it is run, or restored."
_OURS, _DVCS = "error: ", "ERROR: "
_REMEMBERED_LINES = 400
_REASON_CHARACTERS = 300


class _Hopeless(Exception):
    """The pruner says that a trial should end; the message says why."""


class Work:
    """A trial that this process holds. `say` gets a line for a person when something happens."""

    def __init__(
        self, project: Path, records: Records, sweep: Sweep, trial: Trial, lock: TextIO, say: Callable[[str], None]
    ) -> None:
        self._project, self._records, self._sweep, self._trial, self._lock = project, records, sweep, trial, lock
        self._about: About = records.about()
        self._name = records.experiment(trial.number)
        self._copy = Copy(project, self._about.commit, f"{records.name}/trial_{trial.number:03d}")
        self._say = say
        self._is_trained = False

    def do(self, parent: str) -> None:
        """Run the trial to its end, if it has not ended, and record it; `parent` is MLflow's run of the sweep, "" if it is away."""
        trial = self._trial
        if trial.state == RUNNING and trial.reason:  # given up, and killed before it had stopped
            self._end(PRUNED, trial.curve[-1][1], trial.reason)
        elif trial.state in (WAITING, RUNNING):
            self._run(parent)
        if not self._copy.project.is_dir():
            self._copy.make(self._sweep.settings_of(trial.params))  # somebody threw it away: its settings are known
        if not trial.commit:
            trial.commit = self._record()
            self._records.write(trial)
        if not trial.run:
            trial.run = runs.tell_end(self._copy.project, self._records, self._about, trial, parent)
            self._records.write(trial)
        if trial.run:  # else the copy has still something to tell
            self._copy.remove()

    def _run(self, parent: str) -> None:
        trial = self._trial
        trial.go_to(RUNNING)
        trial.begun, trial.starts = trial.begun or time.time(), trial.starts + 1
        self._records.write(trial)
        begun, before = time.monotonic(), trial.seconds
        watch = Watch(
            paths.SPOOL, runs.key(self._about, trial), lambda step, value: self._measured(step, value, begun, before)
        )
        said: deque[str] = deque(maxlen=_REMEMBERED_LINES)
        with self._records.log(trial.number).open("a", encoding="utf-8") as log:
            print(f"--- {self._name}, start {trial.starts}, {time.strftime('%Y-%m-%d %H:%M:%S')}", file=log, flush=True)
            self._say("begins" if trial.starts == 1 else "goes on")
            try:
                self._copy.make(self._sweep.settings_of(trial.params))
                exit_code = self._reproduce(parent, watch, log, said)
                if exit_code:
                    raise UserError(explain(exit_code, list(said)))
                self._is_trained = True
                watch.finish(self._copy.project)
                value = measure(self._copy.project, self._sweep.metric)
            except _Hopeless as reason:
                trial.seconds = before + time.monotonic() - begun
                self._end(PRUNED, trial.curve[-1][1], str(reason))
            except UserError as error:
                trial.seconds = before + time.monotonic() - begun
                print(f"--- failed: {error}", file=log)
                self._end(FAILED, None, str(error))
            else:
                trial.seconds = before + time.monotonic() - begun
                self._end(COMPLETE, value, "")

    def _reproduce(self, parent: str, watch: "Watch", log: TextIO, said: deque[str]) -> int:
        """Run DVC's stages in the copy and return the exit code; raise `_Hopeless` once the trial was stopped for that."""
        with ExitStack() as making_data:
            # Data that the next trial needs as well are made once: it waits here, and finds them in DVC's cache.
            making_data.enter_context(locked(self._records.data_lock(), math.inf, str))

            def on_line(line: str) -> None:
                print(line, file=log, flush=True)
                said.append(line)
                if _TRAINS.match(line):
                    making_data.close()
                if not self._trial.reason:  # given up, it says some last words
                    watch.look()

            command = [sys.executable, "-m", "dvc", "repro", *([] if self._sweep.evaluates else ["pretrain"])]
            environment = self._environment(parent)
            held = [self._lock.fileno()]
            return run(command, cwd=self._copy.project, env=environment, on_line=on_line, held=held)

    def _environment(self, parent: str) -> dict[str, str]:
        trial = self._trial
        environment = {name: value for name, value in os.environ.items() if name not in git.ELSEWHERE}
        environment |= {
            "VIRTUAL_ENV": sys.prefix,  # dvc.yaml finds `gpt` by it
            "SHELL": "/bin/sh",  # DVC runs commands in the user's, which may be none
            "PYTHONUNBUFFERED": "1",  # lines arrive when they are written
            "DVC_NO_ANALYTICS": "1",
            "DVC_DAEMON": "1",  # no background processes of DVC's own
            "DVC_ROOT": str(self._project),  # whose checkpoints, spool and store are used
            "DVC_EXP_NAME": self._name,
            "DVC_EXP_BASELINE_REV": self._about.commit,
            SWEEP_TRIAL: runs.key(self._about, trial),
        }
        return environment | ({SWEEP_PARENT: parent} if parent else {})

    def _measured(self, step: int, value: float, begun: float, before: float) -> None:
        """Note a validation, and raise `_Hopeless` if the pruner gives the trial up for it."""
        trial = self._trial
        if step <= trial.step():
            return  # told before it was killed
        trial.curve.append((step, value))
        trial.seconds = before + time.monotonic() - begun
        others = [each for each in self._records.trials() if each.number != trial.number]
        if not self._is_trained and step < _max_steps(self._copy.project):
            trial.reason = judge(self._sweep.pruner, trial, others)
        self._records.write(trial)  # with the reason: it is given up, also if we are killed before it has stopped
        if trial.reason:
            raise _Hopeless(trial.reason)

    def _end(self, state: str, value: float | None, reason: str) -> None:
        trial = self._trial
        trial.go_to(state)
        trial.value, trial.reason = value, redact(reason)[:_REASON_CHARACTERS]
        self._records.write(trial)
        told = "" if value is None or state != COMPLETE else f": {self._sweep.metric} {value:.4f}"
        self._say(f"{state}{told}{f': {trial.reason}' if trial.reason else ''} ({trial.seconds:.0f} s)")

    def _record(self) -> str:
        """Return the commit of the trial's experiment of DVC."""
        trial = self._trial
        told = " ".join(f"{key}={json.dumps(value, default=str)}" for key, value in trial.params.items())
        message = f"sweep {self._records.name}, trial {trial.number}, {trial.state}: {told}"
        is_measured = trial.state == COMPLETE and self._sweep.evaluates
        return self._copy.save(self._name, message, is_measured=is_measured)


def measure(project: Path, metric: str) -> float:
    """Return a metric of what a project has trained; raise `UserError` if it was not measured, or is no number."""
    if metric in CURVES:
        rows = read_curve(project)
        value: Any = rows[-1][metric] if rows else None
    else:
        value = read_json(project / paths.METRICS, "run `gpt evaluate` again")
        for part in metric.split("."):
            value = value.get(part) if isinstance(value, dict) else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{metric} was not measured, or is no number ({value!r})")
    return number


def explain(exit_code: int, said: list[str]) -> str:
    """Return why DVC's stages failed, in one line: our own error if there is one, else DVC's."""
    for begin in (_OURS, _DVCS):
        for line in reversed(said):
            if line.startswith(begin):
                return line.removeprefix(begin)
    last = next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")
    return f"exit code {exit_code}: {last}"


def _max_steps(project: Path) -> int:
    from gpt.params.project import PARAMS_FILE, load_params

    return load_params(project / PARAMS_FILE).train.max_steps
