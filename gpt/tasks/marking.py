"""What executors of every kind do around a task: mark it when it is done, keep its error, say what takes less memory."""

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datatrove.executor import SlurmPipelineExecutor
from datatrove.executor.base import PipelineExecutor

from gpt.errors import UserError
from gpt.memory import told_if_out_of_memory
from gpt.tasks.steps import WritingStep, sync_files

_Executor = PipelineExecutor if TYPE_CHECKING else object


class Marking(_Executor):
    """Marks a task as done when what it wrote is on the disk, so that the mark is true after a power cut too.

    Leaves a user's error of a task in a file: executors tell their caller little of what went wrong elsewhere.
    """

    def mark_rank_as_completed(self, rank: int) -> None:
        written = [path for step in self.pipeline if isinstance(step, WritingStep) for path in step.written]
        sync_files(written, beside=Path(self.logging_dir.path))
        super().mark_rank_as_completed(rank)

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        # Slurm gives each task a memory of its own: fewer at a time would change nothing.
        of_slurm = isinstance(self, SlurmPipelineExecutor)
        beside = 1 if of_slurm else self.workers  # pyright: ignore[reportAttributeAccessIssue]
        try:
            with told_if_out_of_memory(memory_advice(beside, of_slurm=of_slurm)):
                if of_slurm:
                    return super()._run_for_rank(rank, local_rank, node_rank)
                return self._run_without_log(rank, node_rank)
        except UserError as error:
            folder = Path(self.logging_dir.path, "errors")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{rank:05d}").write_text(str(error), encoding="utf-8", errors="surrogateescape")
            raise

    def _run_without_log(self, rank: int, node_rank: int) -> None:
        """Run a task as datatrove does, but for a log: it would be empty (`quiet_datatrove`), and to open it takes 12 ms."""
        if self.is_rank_completed(rank):
            return
        self._set_distributed_environment(node_rank)
        data = None
        for step in self.pipeline:
            data = step(data, rank, self.world_size)
        deque(data or (), maxlen=0)
        self.mark_rank_as_completed(rank)


def memory_advice(workers: int, *, of_slurm: bool = False) -> str:
    """Say what makes tasks take less memory: all that work at a time, or if that is one already, this one."""
    fewer = f"lower prepare.engine.workers ({workers} work at a time)"
    more = "prepare.engine.memory_gb" if of_slurm else "use machines with more memory"
    smaller = f"raise prepare.shards, so that each task has less to do, or {more}"
    return f"params.yaml: {fewer}" if workers > 1 else f"params.yaml: {smaller}"
