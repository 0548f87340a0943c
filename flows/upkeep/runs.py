"""Flow runs of this workspace: what Prefect says of them is made true, and those that were cut off go on.

A run is alive while its process holds a lock of the kernel's, which nothing can leave behind (flows/upkeep/workspace.py). What
Prefect calls running and nobody holds has died: it is marked as crashed, and scheduled again, as the same run, to go on from its
checkpoint. Of a deployment's runs that wait with the same parameters, the newest does the work of all.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.upkeep import workspace
from gpt.files import lenient_json, write_json
from gpt.paths import CHECKPOINTS

_ANNOUNCED = timedelta(seconds=30)  # a run says that it runs a little before it holds its lock
_STARTING = timedelta(minutes=5)  # from a worker's word that it starts a run to the run's own
_REMEMBERED = timedelta(days=1)  # what crashed earlier stays as it is
_MOST_RUNS = 200
_DECIDING = (":promote", ".promote", ":rollback", ".rollback")  # how their entry points end
_RETRY = "AwaitingRetry"  # as Prefect calls a run that is to be started again
_GO_THERE = "prefect.deployments.steps.set_working_directory"  # as in prefect.yaml
_DELAYS = (10, 60, 120, 300, 600)
"Seconds to the next attempt after the first crash, the second, …; training that got on begins from the first again."


class FlowRuns:
    """One look at the flow runs of this workspace, through a client of Prefect's; `is_last` if no worker starts any more."""

    def __init__(self, client: Any, is_last: bool = False) -> None:
        self._client = client
        self._now = datetime.now(UTC)
        self._announced = timedelta() if is_last else _ANNOUNCED
        self._entrypoints: dict[Any, str] = {}
        self.at_work: list[Any] = []
        "Those whose process lives."

    def look(self) -> Iterator[str]:
        """Put right what is not true; yield a line on each thing done."""
        runs, ours = self._runs(), self._our_deployments()
        for run in runs:
            began = workspace.ran_here(str(run.id))
            if (began and not workspace.is_running(str(run.id))) or (
                run.state.is_pending() and run.deployment_id in ours
            ):
                yield from self._put_right(run)
        for run in self._runs():
            if run.state.is_crashed() and (workspace.ran_here(str(run.id)) or run.deployment_id in ours):
                yield from self._let_go_on(run, runs)
        yield from self._thin_out(ours)

    def _runs(self) -> list[Any]:
        """Return the runs that should have begun by now: all that are at it, and the last of the others."""
        from prefect.client.schemas.filters import (
            FlowRunFilter,
            FlowRunFilterExpectedStartTime,
            FlowRunFilterState,
            FlowRunFilterStateType,
        )  # fmt: skip
        from prefect.client.schemas.objects import StateType
        from prefect.client.schemas.sorting import FlowRunSort

        at_it = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
        due = FlowRunFilterExpectedStartTime.model_validate({"before_": self._now})
        filters = FlowRunFilter(state=FlowRunFilterState(type=at_it)), FlowRunFilter(expected_start_time=due)
        order = FlowRunSort.EXPECTED_START_TIME_DESC
        found = [self._client.read_flow_runs(flow_run_filter=each, sort=order, limit=_MOST_RUNS) for each in filters]
        return list({run.id: run for run in (*found[0], *found[1])}.values())

    def _put_right(self, run: Any) -> Iterator[str]:
        """Say of a run without a process what became of it."""
        from prefect.states import Cancelled, Crashed

        age = self._now - run.state.timestamp
        if run.state.is_running() and age > self._announced:
            yield self._set(run, Crashed(message="its process is gone"))
        elif run.state.is_cancelling() and age > self._announced:
            yield self._set(run, Cancelled(message=f"cancelled; {_saved(run)}"))
        elif run.state.is_pending() and age > _STARTING:
            yield self._set(run, Crashed(message=f"it was not started within {_STARTING}"))
        elif run.state.is_cancelled() and "cancelled; " not in (run.state.message or ""):
            yield self._set(run, Cancelled(message=f"cancelled; {_saved(run)}"))

    def _let_go_on(self, run: Any, others: list[Any]) -> Iterator[str]:
        """Schedule a crashed run again, unless another does its work or it gets nowhere."""
        from prefect.states import Scheduled

        notes = _Notes(str(run.id))
        ended = run.end_time or run.state.timestamp
        if notes.given_up or self._now - ended > _REMEMBERED:
            return
        self._end_tasks(run)
        if run.deployment_id is None or self._decides(run):
            notes.give_up()
            return
        if later := [other for other in others if _does_its_work(other, run)]:
            notes.give_up()
            yield f"{run.name}: crashed, and left at that: {later[0].name}, asked for later, does its work"
            return
        attempt = notes.count_crash(saved_step(run))
        if attempt > len(_DELAYS):
            notes.give_up()
            yield f"{run.name}: crashed {attempt} times and got no further; it is not started again"
            return
        delay = _DELAYS[attempt - 1]
        message = f"goes on in {delay} s ({_saved(run)}), after: {run.state.message or 'a crash'}"
        yield self._set(
            run, Scheduled(name=_RETRY, message=message, scheduled_time=self._now + timedelta(seconds=delay))
        )

    def _thin_out(self, ours: set[Any]) -> Iterator[str]:
        """Let the newest of waiting runs that would do the same be the only one, and say why it waits."""
        from prefect.states import Cancelled, Scheduled

        runs = self._runs()
        self.at_work = [run for run in runs if workspace.is_running(str(run.id))]
        busy = next((run.name for run in self.at_work), None)
        waiting = [run for run in runs if run.state.is_scheduled() and run.deployment_id in ours]
        waiting = sorted((run for run in waiting if run.state.name != _RETRY), key=_asked_for, reverse=True)
        for place, run in enumerate(waiting):
            if newer := next((other for other in waiting[:place] if _same_work(run, other)), None):
                yield self._set(run, Cancelled(message=f"{newer.name}, asked for later, does its work"))
            elif busy and run.state.message != (message := f"waits for {busy}, which runs in this workspace"):
                yield self._set(
                    run, Scheduled(name="Late", message=message, scheduled_time=run.state.state_details.scheduled_time)
                )

    def _our_deployments(self) -> set[Any]:
        """Return the numbers of the deployments that run in this folder."""
        here = {_GO_THERE: {"directory": str(Path.cwd())}}
        found = self._client.read_deployments(limit=_MOST_RUNS)
        self._entrypoints = {deployment.id: deployment.entrypoint or "" for deployment in found}
        return {deployment.id for deployment in found if here in (deployment.pull_steps or [])}

    def _decides(self, run: Any) -> bool:
        """Whether a run decides on a model. One that crashed may have done so: to start it again would be another decision."""
        return self._entrypoints.get(run.deployment_id, "").endswith(_DECIDING)

    def _end_tasks(self, run: Any) -> None:
        """Say of a crashed run's tasks that they crashed with it: nobody else does, and the next attempt has tasks of its own."""
        from prefect.client.schemas.filters import (
            FlowRunFilter,
            FlowRunFilterId,
            TaskRunFilter,
            TaskRunFilterState,
            TaskRunFilterStateType,
        )  # fmt: skip
        from prefect.client.schemas.objects import StateType
        from prefect.states import Crashed

        at_it = TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        for task in self._client.read_task_runs(flow_run_filter=of_run, task_run_filter=TaskRunFilter(state=at_it)):
            self._client.set_task_run_state(task.id, Crashed(message="its flow's process is gone"), force=True)

    def _set(self, run: Any, state: Any) -> str:
        self._client.set_flow_run_state(run.id, state, force=True)
        return f"{run.name}: {run.state.name} → {state.name} ({state.message})"


class _Notes:
    """What is remembered of a run's crashes, beside its lock: how many without a newer checkpoint, and whether that was it."""

    def __init__(self, run: str) -> None:
        self._file = workspace.RUNS / f"{run}.json"
        content = self._file.read_bytes() if self._file.exists() else b""
        self._values = lenient_json(content)
        self.given_up = bool(self._values.get("given_up"))

    def count_crash(self, step: int | None) -> int:
        """Note a crash, and the newest step saved; return how many there were without a newer one between them."""
        before = self._values.get("step")
        crashes = self._values.get("crashes", 0) if before == step else 0
        self._values = {"step": step, "crashes": crashes + 1}
        write_json(self._file, self._values)
        return crashes + 1

    def give_up(self) -> None:
        """Note that the run is not to be started again."""
        write_json(self._file, {**self._values, "given_up": True})


def saved_step(run: Any) -> int | None:
    """Return the step of the newest checkpoint that was saved since a run first began, None if there is none."""
    began = (run.start_time or run.created).timestamp()
    saved: list[tuple[float, int]] = []
    for path in CHECKPOINTS.glob("*/step_*"):
        with suppress(FileNotFoundError):  # a trainer removes its older ones
            saved.append((path.stat().st_mtime, int(path.name.removeprefix("step_"))))
    return max((step for step in saved if step[0] >= began), default=(began, None))[1]


def _saved(run: Any) -> str:
    step = saved_step(run)
    return "no checkpoint was saved" if step is None else f"saved at step {step:,}"


def _asked_for(run: Any) -> tuple[Any, Any]:
    """Return by what runs are ordered: the time that they were to begin at, which two may share."""
    return run.expected_start_time or run.created, run.created


def _does_its_work(other: Any, run: Any) -> bool:
    """Whether another run, asked for later, does what a run was to do, or has done it."""
    failed = other.state.is_cancelled() or other.state.is_cancelling() or other.state.is_failed()
    return _same_work(run, other) and _asked_for(other) > _asked_for(run) and not failed


def _same_work(one: Any, other: Any) -> bool:
    """Whether two runs are of the same deployment with the same parameters."""
    same = one.deployment_id == other.deployment_id and one.parameters == other.parameters
    return same and one.id != other.id
