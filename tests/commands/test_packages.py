"""README, Makefile, pyproject.toml, the lock and `gpt doctor` admit the same interpreters, and the lock holds for each of them."""

import ast
import re
import subprocess
import sys
import tomllib
from itertools import product
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gpt.commands.checks import interpreter
from gpt.commands.checks.interpreter import MACHINES, NEWEST, OLDEST
from gpt.commands.checks.packages import locked, packages, unmet
from gpt.commands.checks.project import repository
from tests import ROOT
from tests.pythons import EXTRAS, VERSIONS, describe, pins_of

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PINS = [Requirement(line) for line in LOCK.splitlines() if line and line[0] not in " #"]
FILE = ROOT / "gpt/commands/checks/interpreter.py"


def test_all_name_the_same_pythons() -> None:
    oldest, newest = (".".join(map(str, version)) for version in (OLDEST, NEWEST))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    sentence = f"CPython {oldest} to {newest}, make and git"
    assert f"A machine needs Linux (x86-64 or arm64), {sentence}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert sentence in makefile
    assert f"--universal --python-version {oldest} " in makefile
    assert PYPROJECT["project"]["requires-python"] == f">={oldest},<{NEWEST[0]}.{NEWEST[1] + 1}"
    assert PYPROJECT["tool"]["basedpyright"]["pythonVersion"] == oldest, "types are checked for the oldest"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert makefile.count(str(FILE.relative_to(ROOT))) == 2, "asked of the interpreter and of the environment"


def test_the_lock_names_exact_versions_and_no_place_to_get_them() -> None:
    assert all(re.fullmatch(r"==[^+*]+", str(pin.specifier)) and not pin.url for pin in PINS), (
        "no build of this machine"
    )
    assert not re.search(r"://|^-", LOCK, re.MULTILINE)


@pytest.mark.parametrize(("version", "machine"), product(VERSIONS, MACHINES))
def test_the_lock_has_what_each_python_and_machine_is_said_to_need(version: str, machine: str) -> None:
    pins, project = pins_of(LOCK, version, machine), PYPROJECT["project"]
    asked = [*project["dependencies"], *(text for extra in EXTRAS for text in project["optional-dependencies"][extra])]
    for needed in map(Requirement, asked):
        assert needed.specifier.contains(pins[canonicalize_name(needed.name)]), f"`make lock`: {needed}"
    assert ("async-timeout" in pins) == (version == "3.11.2")
    assert ("whenever" in pins) == (version >= "3.13")
    assert {"nvidia-cublas", "triton"} <= pins.keys(), "what a build of torch for CUDA brings, in one version for all"


def test_the_environment_is_as_locked_and_complete() -> None:
    pins = locked(LOCK)
    assert not [pin.name for pin in pins if pin.name.startswith(("nvidia-", "cuda-", "triton"))]
    assert list(unmet(pins)) == []
    assert {kind for kind, subject, _ in packages() if subject in ("Python", "packages")} == {"ok"}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that packages are found in."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def install(site: Path, name: str, version: str, *needs: str) -> None:
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {need}" for need in needs),
    ]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def found(lock: str) -> tuple[str, str]:
    """Return what doctor finds of the packages in a project with this lock."""
    Path("requirements.lock").write_text(lock, encoding="utf-8", errors="surrogateescape")
    return next((kind, text) for kind, subject, text in packages() if subject == "packages")


def test_doctor_tells_what_this_interpreter_lacks(site: Path) -> None:
    install(site, "made-up", "1.0", "absent-here>=2; python_version > '3'", "absent-there; python_version < '3'")
    kind, text = found("made-up==1.0\n    # via nobody\nnot-for-us==1 ; python_full_version < '3'\n")
    assert kind == "missing"
    assert "made-up needs absent-here" in text
    assert "absent-there" not in text
    install(site, "absent-here", "1.0")
    assert "absent-here>=2" in found("made-up==1.0\n")[1], "there, but too old"
    assert "made-up 1.0 (lock: ==1.1), also-gone absent" in found("made-up==1.1\nalso-gone==3\n")[1]
    assert "`make -B .venv/.installed`" in found("made-up==1.1\n")[1]


def test_doctor_reads_locks_of_other_tools_and_tells_one_that_it_cannot(site: Path) -> None:
    install(site, "made-up", "1.0")
    lock = (
        "-e .\n--find-links /x\nmade_up==1.0 ; python_version > '3' \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n"
    )
    assert found(lock) == ("ok", "all 1 as in requirements.lock")
    assert found("Made.Up==1.0  # ours\n\n") == ("ok", "all 1 as in requirements.lock")
    for broken in ("<<<<<<< HEAD\n", "made-up==1.0 ==2\n", "\udcff==1\n"):
        kind, text = found(broken)
        assert kind == "missing"
        assert text.startswith("requirements.lock cannot be read: ")


def test_doctor_asks_for_the_libraries_of_the_build_of_torch_that_is_there(site: Path) -> None:
    lock = "big-torch==2.13.0\nnvidia-made-up==13.1 ; sys_platform == 'linux'\ntriton==3.7.1\n"
    install(site, "big-torch", "2.13.0+cpu")
    assert found(lock) == ("ok", "all 1 as in requirements.lock")
    (site / "big_torch-2.13.0+cpu.dist-info/METADATA").unlink()
    (site / "big_torch-2.13.0+cpu.dist-info").rmdir()
    install(site, "big-torch", "2.13.0", "cuda-set[blas]==13.0")
    install(site, "cuda-set", "13.0", "nvidia-made-up==13.1; extra == 'blas'", "nvidia-other==1; extra == 'fft'")
    kind, text = found(lock)
    assert kind == "missing"
    assert "cuda-set needs nvidia-made-up==13.1" in text
    assert "nvidia-other" not in text
    install(site, "nvidia-made-up", "13.1")
    assert found(lock) == ("ok", "all 1 as in requirements.lock")


def test_doctor_tells_an_environment_that_runs_the_code_of_another_project(site: Path) -> None:
    assert "code" not in [subject for _, subject, _ in packages()], "a project without code of its own"
    Path("gpt").mkdir()
    Path("gpt/__init__.py").touch()
    (finding,) = [finding for finding in packages() if finding[1] == "code"]
    assert finding[0] == "missing"
    assert finding[2].startswith(f"`gpt` runs {ROOT}/gpt, not the code in this folder")


@pytest.mark.parametrize(("name", "works"), [("a b #1 %s $x", True), ("{c}", False), ("{", False), ("{0}", False)])
def test_doctor_tells_a_folder_that_dvc_fails_in(
    name: str, works: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    assert ("folder" in [subject for _, subject, _ in repository()]) is not works
    monkeypatch.setattr(sys, "prefix", "/100%/.venv")
    assert "MLflow cannot be installed under a name with %" in "".join(text for *_, text in repository())


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("CPython", (3, 10, 14), "CPython 3.11 to 3.13 is needed, not CPython 3.10.14"),
        ("CPython", (3, 14, 0), "not CPython 3.14.0"),
        ("CPython", (2, 7, 18), "not CPython 2.7.18"),
        ("PyPy", (3, 11, 13), "not PyPy 3.11.13"),
    ],
)
def test_another_interpreter_is_refused_by_name(
    name: str, version: tuple[int, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr("platform.python_implementation", lambda: name)
    monkeypatch.setattr("platform.python_version", lambda: ".".join(map(str, version)))
    assert words in interpreter.unfit()
    assert next(packages())[0] == "missing"


def test_a_build_without_wheels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interpreter.unfit() == ""
    monkeypatch.setattr("sysconfig.get_config_var", lambda _: 1)
    assert "free-threaded" in interpreter.unfit()
    monkeypatch.undo()
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert "32-bit" in interpreter.unfit()


@pytest.mark.parametrize(
    ("system", "machine", "library", "words"),
    [
        ("Darwin", "arm64", ("", ""), "not for Darwin on arm64"),
        ("Linux", "riscv64", ("glibc", "2.41"), "not for Linux on riscv64"),
        ("Linux", "x86_64", ("glibc", "2.17"), "not for glibc 2.17"),
        ("Linux", "aarch64", ("", ""), "not for another C library"),
        ("Linux", "aarch64", ("glibc", "2.36"), ""),
        ("Linux", "x86_64", ("glibc", "2.28"), ""),
    ],
)
def test_a_machine_that_nobody_tried_is_told(
    system: str, machine: str, library: tuple[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("system", system), ("machine", machine), ("libc_ver", library)):
        monkeypatch.setattr(f"platform.{name}", lambda value=value: value)
    assert words in interpreter.untried() if words else not interpreter.untried()
    assert not interpreter.unfit(), "it may work"


def test_make_can_ask_before_anything_is_installed() -> None:
    ast.parse(FILE.read_text(encoding="utf-8"), feature_version=(3, 7))  # so that an old python3 says it is too old
    done = subprocess.run([sys.executable, "-I", "-S", str(FILE)], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_what_differs_from_the_lock_is_told() -> None:
    assert describe({"a": "1", "b": "2"}, {"a": "1", "b": "2"}) == ""
    assert describe({"a": "1", "b": "2"}, {"a": "2"}) == (
        "only in the lock: a==1; only in the lock: b==2; not in the lock: a==2"
    )
    assert describe({}, "no wheel") == "no wheel"
