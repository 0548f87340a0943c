"""What executors of every kind do around a task: mark it when it is done, keep its error, say what takes less memory."""

from pathlib import Path
from typing import Any

from datatrove.executor import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from gpt.errors import UserError
from gpt.memory import told_if_out_of_memory
from gpt.tasks.steps import WritingStep, sync_files


class Marking:
    """Marks a task as done when what it wrote is on the disk, so that the mark is true after a power cut too.

    Leaves a user's error of a task in a file: executors tell their caller little of what went wrong elsewhere.
    """

    def mark_rank_as_completed(self, rank: int) -> None:
        pipeline: list[PipelineStep] = self.pipeline  # pyright: ignore[reportAttributeAccessIssue]
        written = [path for step in pipeline if isinstance(step, WritingStep) for path in step.written]
        sync_files(written, beside=Path(self.logging_dir.path))  # pyright: ignore[reportAttributeAccessIssue]
        super().mark_rank_as_completed(rank)  # pyright: ignore[reportAttributeAccessIssue]

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        # Slurm gives each task a memory of its own: fewer at a time would change nothing.
        of_slurm = isinstance(self, SlurmPipelineExecutor)
        beside = 1 if of_slurm else self.workers  # pyright: ignore[reportAttributeAccessIssue]
        try:
            with told_if_out_of_memory(memory_advice(beside, of_slurm=of_slurm)):
                return super()._run_for_rank(rank, local_rank, node_rank)  # pyright: ignore[reportAttributeAccessIssue]
        except UserError as error:
            folder = Path(self.logging_dir.path, "errors")  # pyright: ignore[reportAttributeAccessIssue]
            folder.mkdir(exist_ok=True)
            (folder / f"{rank:05d}").write_text(str(error), encoding="utf-8", errors="surrogateescape")
            raise


def memory_advice(workers: int, *, of_slurm: bool = False) -> str:
    """Say what makes tasks take less memory: all that work at a time, or if that is one already, this one."""
    fewer = f"lower prepare.engine.workers ({workers} work at a time)"
    more = "prepare.engine.memory_gb" if of_slurm else "use machines with more memory"
    smaller = f"raise prepare.shards, so that each task has less to do, or {more}"
    return f"params.yaml: {fewer}" if workers > 1 else f"params.yaml: {smaller}"
