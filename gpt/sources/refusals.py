"""What is wrong with the sources of params.yaml, told of all of them at once: a line each, and in the last
one of other content the command that accepts what came."""

from collections.abc import Iterator
from contextlib import contextmanager

from gpt.errors import UserError


class OtherContent(UserError):
    """What came is not what params.yaml says; `found` is what its hash would be."""

    def __init__(self, said: str, found: str, what: str = "") -> None:
        super().__init__(f"sha256 is {said}, but what came has {found}{what and f' ({what})'}")
        self.found = found


class Refusals:
    """Collects the errors of a list of `fetch`, sources or benchmarks."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._lines = list[str]()
        self._other = list[str]()
        self._last_other = 0  # the line that also says how to accept what came

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Keep a `UserError` that is raised inside as one of the source `name`."""
        try:
            yield
        except UserError as error:
            if isinstance(error, OtherContent):
                self._other.append(name)
                self._last_other = len(self._lines)
            self._lines.append(f"params.yaml: fetch.{self._kind} {name}: {error}")

    def tell(self) -> None:
        """Raise one `UserError` with all that was kept, if anything was."""
        lines = list(self._lines)
        if self._other:
            lines[self._last_other] += (
                f"; if that is what you want, `gpt data hash {' '.join(self._other)}` writes it into params.yaml"
            )
        if lines:
            raise UserError("\n".join(lines))
