"""Run tasks of a datatrove pipeline on this machine, on Ray or on Slurm, and know that all of them are done.

How many tasks there are is part of the data's definition; how many run at a time, and where, is not. A task that is done
has a mark in the log folder and is not done again, so what was killed goes on with the tasks that are left.
"""

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from copy import deepcopy
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor
from datatrove.executor.base import PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from gpt.errors import UserError
from gpt.limits import usable_cores
from gpt.memory import KillWatch, describe_kill, told_if_out_of_memory
from gpt.params.engine import Engine
from gpt.tasks.marking import Marking, memory_advice
from gpt.tasks.slurm import SlurmExecutor


class Tasks:
    """Runs pipelines one after the other; a context manager that keeps worker processes between them.

    `folder` holds logs and marks of what is done; workers on other machines must see it, and the project, under the
    same path.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine, self._folder = engine, folder.resolve()
        self._workers = engine.workers or usable_cores()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Tasks":
        quiet_datatrove()
        if self._engine.kind == "ray":
            _connect_to_ray()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._engine.kind == "ray":
            import ray

            ray.shutdown()

    def run(self, name: str, tasks: int, *pipeline: PipelineStep) -> None:
        """Run the tasks of a pipeline that are not done yet; steps of different tasks share nothing but files.

        Raises the `UserError` of the task with the lowest number, or one that says that memory was short; `RuntimeError` if a
        worker died otherwise.
        """
        logs = self._folder / name
        shutil.rmtree(logs / "errors", ignore_errors=True)
        executor = self._executor(list(pipeline), tasks, logs)
        with told_if_out_of_memory(memory_advice(self._workers)):  # in this process, or Ray's word on its workers
            executor.run()
        for error in sorted((logs / "errors").glob("*")):
            raise UserError(error.read_text(encoding="utf-8", errors="surrogateescape"))
        if left := executor.get_incomplete_ranks(skip_completed=True):
            lost = f"{len(left)} of {tasks} tasks ended before they were done"
            if self._engine.kind != "slurm":
                raise RuntimeError(lost)
            raise UserError(
                f"{lost}: jobs that need more memory or time than Slurm gives are killed, which `sacct` and {logs} tell;"
                " raise prepare.engine.slurm_time or prepare.shards, and run it again: what is done already is kept"
            )

    def _executor(self, pipeline: list[Any], tasks: int, logs: Path) -> PipelineExecutor:
        workers = min(self._workers, tasks)
        match self._engine.kind:
            case "local":
                if workers > 1 and self._pool is None:
                    context = multiprocessing.get_context("forkserver")
                    # Imported once: workers are forked with them.
                    context.set_forkserver_preload(sorted({__name__, *(type(step).__module__ for step in pipeline)}))
                    self._pool = ProcessPoolExecutor(self._workers, context, initializer=_begin_worker)
                return _Local(pipeline, tasks=tasks, workers=workers, logging_dir=str(logs), pool=self._pool)
            case "ray":
                return _Ray(
                    pipeline, tasks=tasks, workers=workers, logging_dir=str(logs), mem_per_cpu_gb=self._engine.memory_gb
                )
            case "slurm":
                return SlurmExecutor(
                    pipeline,
                    tasks=tasks,
                    workers=self._engine.workers or -1,
                    time=self._engine.slurm_time,
                    mem_per_cpu_gb=self._engine.memory_gb,
                    partition=self._engine.slurm_partition,
                    qos="",
                    job_name=f"gpt-{logs.name}",
                    logging_dir=str(logs),
                )


def quiet_datatrove() -> None:
    """Let datatrove and its readers log nothing: what a person needs to know is raised."""
    logger.disable("datatrove")
    for name in ("trafilatura", "htmldate", "courlan", "warcio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


class _Local(Marking, LocalPipelineExecutor):
    """datatrove's own waits forever for a worker that the system has killed (as for want of memory); this one says so."""

    def __init__(self, *arguments: Any, pool: ProcessPoolExecutor | None, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._pool = pool

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pool": None}

    def run(self) -> None:
        ranks = self.get_incomplete_ranks()
        if self._pool is not None and self.workers > 1:
            self._run_in(self._pool, ranks)
            return
        pipeline = self.pipeline
        with contextlib.suppress(UserError):  # in its file
            for rank in ranks:
                self.pipeline = deepcopy(pipeline)
                self._run_for_rank(rank)

    def _run_in(self, pool: ProcessPoolExecutor, ranks: list[int]) -> None:
        kills, futures = KillWatch(), []
        processes = pool._processes  # filled as they are needed; a broken pool forgets it
        try:
            for rank in ranks:
                futures.append(pool.submit(self._run_for_rank, rank))
            with contextlib.suppress(UserError):  # in its file
                for future in futures:
                    future.result()
        except BrokenProcessPool:
            # The pool waits for all, and ends all but one that was being started when another died.
            for pid in list(processes):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            pool.shutdown()  # it reads exit codes, which can be read once
            codes = [process.exitcode or 0 for process in processes.values()]
            raise _death_of(codes, kills.has_killed(), self.workers) from None
        finally:
            for future in futures:
                future.cancel()


def _death_of(codes: Sequence[int], by_kernel: bool, workers: int) -> Exception:
    """Return the error that the exit codes of a pool's processes come to, of which one died by itself."""
    # When one dies the pool ends the others, by SIGTERM.
    code = min((code for code in codes if code not in (0, -signal.SIGTERM)), default=-signal.SIGTERM)
    if code == -signal.SIGKILL:
        return UserError(
            f"a worker process {describe_kill(code, by_kernel=by_kernel)}; {memory_advice(workers)}; what is done already is kept"
        )
    return RuntimeError(f"a worker process {describe_kill(code)}")


class _Ray(Marking, RayPipelineExecutor):
    """datatrove's own starts an actor and a process per task; plain tasks share Ray's workers, and survive the loss of one."""

    def run(self) -> None:
        import ray

        executor: Any = ray.put(self)
        memory = int(self.mem_per_cpu_gb * self.cpus_per_task * 2**30)
        largest = max(node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"])
        if memory > largest:  # Ray would wait for such a machine for ever
            raise UserError(
                f"params.yaml: prepare.engine.memory_gb = {self.mem_per_cpu_gb}: no machine of the Ray cluster gives a task more"
                f" than {largest / 2**30:.1f} GiB; lower it"
            )
        task = ray.remote(num_cpus=self.cpus_per_task, memory=memory)(_run_rank)
        left, running = self.get_incomplete_ranks(), []
        while left or running:
            while left and len(running) < self.workers:
                running.append(task.remote(executor, left.pop(0)))
            done, running = ray.wait(running)
            with contextlib.suppress(UserError):  # in its file
                ray.get(done)


def _run_rank(executor: PipelineExecutor, rank: int) -> None:
    quiet_datatrove()
    executor._run_for_rank(rank)


def _connect_to_ray() -> None:
    try:
        import ray
    except ImportError:
        raise UserError(
            "params.yaml: prepare.engine.kind = 'ray': Ray is not installed; pip install '.[ray]'"
        ) from None
    options: Any = {
        "log_to_driver": False,
        "include_dashboard": False,
        "logging_level": logging.ERROR,
        "ignore_reinit_error": True,
    }
    # RAY_ADDRESS names a cluster; without it Ray takes one of this machine, or starts one.
    try:
        if "RAY_ADDRESS" in os.environ:
            ray.init(**options)
            return
        try:
            ray.init(num_cpus=usable_cores(), **options)  # it would see neither affinity nor all control groups
        except ValueError:  # one that is there already has its own number
            ray.init(**options)
    except ConnectionError as error:
        raise UserError(f"RAY_ADDRESS: no Ray cluster answers there ({error}); correct it, or unset it") from None


def _begin_worker() -> None:
    """Keep a worker quiet, and end it with the process that started it, which SIGKILL gives no time to do so."""
    quiet_datatrove()
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has one"

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()
