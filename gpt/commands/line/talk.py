"""`gpt generate --interactive`: what a person types and what a model writes make one text that grows.

A base model knows no turns, it goes on with a text: all that was said is its prompt, of which it sees the last block_size tokens.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from gpt.entry import readable
from gpt.paths import cache_folder

_HELP = "Type how a text begins. Enter alone lets the model write on, /new forgets it, Ctrl-C stops an answer, Ctrl-D leaves."
_HISTORY_LINES = 1000
_CONTROLS = {code: "�" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}

logger = logging.getLogger(__name__)


def talk(write: Callable[[str, int], Iterator[str]], beginning: str = "") -> None:
    """Let a person and a model write in turns until the input ends. `write(text, turn)` yields pieces of how a text goes on.

    From a pipe, lines are taken as if they were typed.
    """
    is_person = sys.stdin is not None and sys.stdin.isatty()
    if is_person:
        print(_HELP, file=sys.stderr)
    with _remembered_lines(is_person):
        text, turn = beginning, 0
        if beginning:
            show(beginning)
            text, turn = text + _answer(write, text, turn), turn + 1
        while (line := _read_line(is_person)) is not None:
            if line == "/new":
                text = ""
                continue
            text += f"\n{line}" if text and line and not text.endswith("\n") else line
            if text:
                text, turn = text + _answer(write, text, turn), turn + 1


def show(piece: str) -> None:
    """Print a piece of what a model writes at once; in a terminal, nothing in it moves the cursor or changes a mode."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    print(piece.translate(_CONTROLS) if is_terminal else piece, end="", flush=True)


def _answer(write: Callable[[str, int], Iterator[str]], text: str, turn: int) -> str:
    """Print how the text goes on as it comes, and return it; after Ctrl-C what has come by then."""
    pieces: list[str] = []
    with suppress(KeyboardInterrupt):
        for piece in write(text, turn):
            pieces.append(piece)
            show(piece)
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
