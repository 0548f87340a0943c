"""What a test asks of processes that may end between two questions: one that is gone has no command and no variables."""

import psutil


def is_alive(process: psutil.Process | int) -> bool:
    """Return whether a process, or that of a pid, runs: one that has ended and is not yet waited for does not."""
    try:
        process = psutil.Process(process) if isinstance(process, int) else process
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_of(process: psutil.Process) -> str:
    """Return the command line of a process."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def variables_of(process: psutil.Process) -> dict[str, str]:
    """Return the environment variables of a process."""
    try:
        return process.environ()
    except psutil.Error:
        return {}
