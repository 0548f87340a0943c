"""Run tasks as job arrays of Slurm, and wait for them."""

import os
import re
import shlex
import subprocess
import sys
import time
from typing import Any

from datatrove.executor import SlurmPipelineExecutor

from gpt.errors import UserError
from gpt.tasks.marking import Marking

_POLL_SECONDS = 5.0
_SLURM_GRACE_SECONDS = 60.0  # a job that has left the queue may have marks that a shared filesystem shows late


class SlurmExecutor(Marking, SlurmPipelineExecutor):
    """datatrove's own returns when the jobs are queued; this one waits for them."""

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        """Name no partition where none is set: the cluster has a default. Job logs lie where datatrove has them."""
        options = super().get_sbatch_args(max_array)
        folder, file = os.path.split(os.path.relpath(options["output"]))  # from the project's folder, where jobs start
        logs = f"{folder.replace('%', '%%')}/{file}"
        options |= {"output": logs, "error": logs}
        return {key: value for key, value in options.items() if value or key != "partition"}

    def get_launch_file_contents(self, sbatch_args: dict[str, Any], run_script: str) -> str:
        """Return the job's script; datatrove's own cannot hold a path with a space. It runs with this very interpreter."""
        pipeline = self.logging_dir.resolve_paths("executor.pik")
        module = ("-m", "datatrove.tools.launch_pickled_pipeline")
        command = shlex.join(["srun", "-l", "-n", str(self.nodes_per_task), sys.executable, *module, str(pipeline)])
        options = [f"#SBATCH --{key}{_sbatch_value(value)}" for key, value in sbatch_args.items()]
        return "\n".join(["#!/bin/bash", *options, "set -xe", "export PYTHONUNBUFFERED=TRUE", command, ""])

    def run(self) -> None:
        try:
            super().run()
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise UserError(
                f"params.yaml: prepare.engine.kind = 'slurm': sbatch cannot be run ({error}); run this where jobs are submitted"
            ) from None
        if "SLURM_ARRAY_TASK_ID" in os.environ or self.job_id == -1:  # in a job, or nothing was left to do
            return
        gone_since = None
        while self.get_incomplete_ranks(skip_completed=True):
            time.sleep(_POLL_SECONDS)
            queue = subprocess.run(
                ["squeue", "--noheader", f"--jobs={self.job_id}"], capture_output=True, text=True, check=False
            )
            if queue.returncode == 0 and queue.stdout.strip():
                gone_since = None
            elif gone_since is None:
                gone_since = time.monotonic()
            elif time.monotonic() - gone_since > _SLURM_GRACE_SECONDS:
                return

    def launch_merge_stats(self) -> None:
        """Launch nothing: each task's own report is read."""


def _sbatch_value(value: object) -> str:
    """Return `=value` as sbatch reads it: a backslash takes the next character, in double quotes too; nothing for a mere flag."""
    text = str(value)
    if not text or re.fullmatch(r"[\w./:%-]+", text, re.ASCII):
        return text and f"={text}"
    return '="' + re.sub(r'(["\\])', r"\\\1", text) + '"'
