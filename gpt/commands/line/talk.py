"""`gpt generate --interactive`: a person types, a model writes, in turns.

A base model knows no turns, it goes on with a text: all that was said is its prompt, of which it sees the last block_size tokens.
One that has learned to answer gets the conversation.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from gpt.entry import readable
from gpt.errors import UserError
from gpt.paths import cache_folder

_HISTORY_LINES = 1000
_CONTROLS = {code: "�" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}

logger = logging.getLogger(__name__)


class Talk(Protocol):
    """What was said so far, in the form that the model takes."""

    help: str

    def begin(self) -> None:
        """Forget all of it."""
        ...

    def hear(self, line: str) -> bool:
        """Take what a person has typed; return whether there is something to answer."""
        ...

    def write(self, turn: int) -> Iterator[str]:
        """Yield the model's answer in pieces."""
        ...

    def keep(self, answer: str) -> None:
        """Take what came of the answer."""
        ...


class TextTalk:
    """With a base model: one text that grows. `write_on(text, turn)` yields pieces of how it goes on."""

    help = "Type how a text begins. Enter alone lets the model write on, /new forgets it, Ctrl-C stops an answer, Ctrl-D leaves."

    def __init__(self, write_on: Callable[[str, int], Iterator[str]]) -> None:
        self._write_on, self._text = write_on, ""

    def begin(self) -> None:
        self._text = ""

    def hear(self, line: str) -> bool:
        self._text += f"\n{line}" if self._text and line and not self._text.endswith("\n") else line
        return bool(self._text)

    def write(self, turn: int) -> Iterator[str]:
        return self._write_on(self._text, turn)

    def keep(self, answer: str) -> None:
        self._text += answer


class ChatTalk:
    """With a model that has learned to answer: messages in turns. `answer(messages, turn)` yields pieces of the next one."""

    help = "Type a message. /new begins another conversation, Ctrl-C stops an answer, Ctrl-D leaves."

    def __init__(self, answer: Callable[[list[dict[str, str]], int], Iterator[str]]) -> None:
        self._answer, self._messages = answer, list[dict[str, str]]()

    def begin(self) -> None:
        self._messages.clear()

    def hear(self, line: str) -> bool:
        if line:
            self._messages.append({"role": "user", "content": line})
        return bool(line)

    def write(self, turn: int) -> Iterator[str]:
        return self._answer(self._messages, turn)

    def keep(self, answer: str) -> None:
        self._messages.append({"role": "assistant", "content": answer})


def talk(with_model: Talk, beginning: str = "") -> None:
    """Let a person and a model write in turns until the input ends. From a pipe, lines are taken as if they were typed."""
    is_person = sys.stdin is not None and sys.stdin.isatty()
    if is_person:
        print(with_model.help, file=sys.stderr)
    with _remembered_lines(is_person):
        turn, line = 0, beginning or _read_line(is_person)
        if beginning:
            show(beginning)
        while line is not None:
            if line == "/new":
                with_model.begin()
            elif with_model.hear(line):
                with_model.keep(_answer(with_model, turn))
                turn += 1
            line = _read_line(is_person)


def show(piece: str) -> None:
    """Print a piece of what a model writes at once; in a terminal, nothing in it moves the cursor or changes a mode."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    print(piece.translate(_CONTROLS) if is_terminal else piece, end="", flush=True)


def _answer(with_model: Talk, turn: int) -> str:
    """Print an answer as it comes, and return it; after Ctrl-C what has come by then."""
    pieces: list[str] = []
    with suppress(KeyboardInterrupt):
        try:
            for piece in with_model.write(turn):
                pieces.append(piece)
                show(piece)
        except UserError as error:  # the next message may do
            print(f"({error})", file=sys.stderr)
    print(flush=True)
    return "".join(pieces)


def _read_line(is_person: bool) -> str | None:
    """Return the next line, None at the end of the input. Ctrl-C gives up a line that was begun."""
    if sys.stdin is None:
        return None
    if not is_person:
        line = sys.stdin.buffer.readline()
        return readable(line.decode("utf-8", "surrogateescape")).removesuffix("\n") if line else None
    while True:
        try:
            return readable(input("> "))
        except KeyboardInterrupt:
            print("  (Ctrl-D leaves)")
        except UnicodeDecodeError:
            print("  (not in this terminal's encoding: not taken)")
        except EOFError:
            print()
            return None


@contextmanager
def _remembered_lines(is_person: bool) -> Iterator[None]:
    """Let a person edit lines and call up those of earlier talks; they stay in the user's cache, for the user alone."""
    try:
        import readline
    except ImportError:  # an interpreter that was built without it
        readline = None
    if readline is None or not is_person:
        yield
        return
    file = cache_folder("talks") / "history"
    try:
        readline.read_history_file(file)
    except FileNotFoundError:
        pass
    except OSError as error:  # not ours to read, or of another library of lines
        logger.warning("%s: earlier lines cannot be called up: %s", file, error)
    readline.set_history_length(_HISTORY_LINES)
    try:
        yield
    finally:
        try:
            file.touch(mode=0o600)
            readline.write_history_file(file)
        except OSError as error:
            logger.warning("what was typed is not remembered: %s", error)
