"""Errors that a user can act on.

A `UserError` ends a command with exit code 2 and its one message; anything else is a bug or a failing machine.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """What is wrong, where it is (file, key, line) and what to do, in one message for a person."""


class Interrupted(BaseException):
    """Training was asked to stop by a signal and has saved its state.

    Like KeyboardInterrupt it is no error, and what handles errors lets it pass.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put `where` before the message of a `UserError` that is raised inside."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
