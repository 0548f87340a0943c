"""How a process begins and ends: output in any locale, arguments of any bytes, and an exit code of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt import entry
from tests import ROOT

LOCALES: dict[str, dict[str, str]] = {
    "ASCII": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "an unknown locale": {"LC_ALL": "xx_YY.ISO-8859-1", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
    "strict ASCII": {"PYTHONIOENCODING": "ascii:strict"},
    "a code page": {"PYTHONIOENCODING": "cp437:strict"},
    "UTF-16": {"PYTHONIOENCODING": "utf-16"},
    "UTF-8": {"PYTHONIOENCODING": "utf-8:strict"},
}


PROGRAM = """\
import os, sys
from gpt.entry import begin, end_with

def command():
{code}
    return 0

begin()
sys.exit(end_with(command))
"""


def run(code: str, environment: dict[str, str], **options: object) -> "subprocess.CompletedProcess[bytes]":
    """Run code after `begin()` and as the command of `end_with`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LC_", "LANG"))}
    return subprocess.run(
        [sys.executable],
        input=f"# coding: utf-8\n{PROGRAM.format(code=code)}".encode(),
        env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
        stderr=subprocess.PIPE,
        **{"stdout": subprocess.PIPE, **options},  # pyright: ignore[reportArgumentType, reportCallIssue]
    )


@pytest.mark.parametrize("environment", LOCALES.values(), ids=LOCALES)
def test_every_character_can_be_printed_in_every_locale(environment: dict[str, str]) -> None:
    code = "    for stream in sys.stdout, sys.stderr: print('│…✓ü王🙂\\ufffd', os.fsdecode(b'a\\xffb'), file=stream)"
    result = run(code, environment)
    assert result.returncode == 0, result.stderr
    assert b"Traceback" not in result.stderr
    assert result.stdout


def test_an_ascii_terminal_gets_legible_signs() -> None:
    result = run("    print('│✓ ✗ · … ü 王 �', os.fsdecode(b'a\\xff'))", LOCALES["ASCII"])
    assert result.stdout == b"|ok !! - ... \\xfc \\u738b ? a\\xff\n"


def test_a_name_that_is_no_text_is_shown_byte_by_byte() -> None:
    result = run("    print(os.fsdecode(b'm\\xc3\\xbc\\xff'))", LOCALES["UTF-8"])
    assert result.stdout == "mü\\xff\n".encode()


def test_typed_bytes_become_text() -> None:
    assert entry.readable("To be ü 王") == "To be ü 王"
    assert entry.readable(os.fsdecode(b"a\xffb")) == "a�b"
    surrogates = "ü".encode().decode("ascii", "surrogateescape")  # as an ASCII locale reads it
    assert entry.readable(surrogates) == "ü"


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("    return 1", 1, ""),
        ("    from gpt.errors import UserError; raise UserError('a: b\\nc: d')", 2, "error: a: b\nerror: c: d\n"),
        ("    open('/dev/null/x')", 2, "error: /dev/null/x: Not a directory; make it writable, or make room\n"),
        ("    raise KeyboardInterrupt", 130, "interrupted\n"),
        ("    from gpt.errors import Interrupted\n    raise Interrupted(15, 'saved')", 143, "saved\n"),
    ],
)  # fmt: skip
def test_each_end_has_its_exit_code_and_its_words(code: str, exit_code: int, said: str) -> None:
    result = run(code, {})
    assert (result.returncode, result.stderr.decode()) == (exit_code, said)


def test_a_bug_is_still_a_traceback() -> None:
    result = run("    {}['bug']", {})
    assert result.returncode == 1
    assert b"KeyError: 'bug'" in result.stderr


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_has_seen_enough_is_no_error(lines: int) -> None:
    read, write = os.pipe()
    os.close(read)
    result = run(f"    for _ in range({lines}): print('a line')", {}, stdout=write)
    os.close(write)
    assert (result.returncode, result.stderr) == (0, b"")


def test_help_may_be_cut_short_too() -> None:
    read, write = os.pipe()
    os.close(read)
    result = run("    print('help'); sys.exit(0)", {}, stdout=write)  # as argparse does
    os.close(write)
    assert (result.returncode, result.stderr) == (0, b"")


def test_a_connection_that_breaks_is_no_reader_of_ours() -> None:
    result = run("    raise BrokenPipeError('to a server')", {})
    assert result.returncode == 1
    assert b"to a server" in result.stderr


@pytest.mark.parametrize("lines", [1, 100_000])
def test_output_that_has_no_room_is_one_clear_error(lines: int) -> None:
    with Path("/dev/full").open("w") as full:
        result = run(f"    for _ in range({lines}): print('a line')", {}, stdout=full)
    assert result.returncode == 2
    assert b"No space left on device" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert b"Exception ignored" not in result.stderr


def test_a_closed_output_is_no_error() -> None:
    result = run("    print('to nobody')", {}, stdout=None, preexec_fn=lambda: os.close(1))
    assert (result.returncode, result.stderr) == (0, b"")


def test_what_fails_within_a_process_group_ends_with_its_own_exit_code_and_nothing_more_on_stderr(
    tmp_path: Path,
) -> None:
    code = f"""\
import atexit, sys, torch
from gpt.entry import begin, end_with, leave
from gpt.errors import UserError

def command():
    torch.distributed.init_process_group("gloo", init_method="file://{tmp_path}/meeting", rank=0, world_size=1)
    print("half of it")
    raise UserError("data/tokens: damaged")

atexit.register(print, "the interpreter ended, and threads of the group may be torn out of C++", file=sys.stderr)
begin()
sys.exit(leave(end_with(command)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert (result.returncode, result.stderr) == (2, "error: data/tokens: damaged\n")
    assert result.stdout == "half of it\n", "what it has said is not lost"
