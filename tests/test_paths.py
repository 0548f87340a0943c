"""Where the project is, and where files of the user's go: found upwards, and never into a folder that cannot be written."""

import getpass
import os
import pwd
from pathlib import Path

import pytest

from gpt import paths
from gpt.errors import UserError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with folders in it, below another one."""
    (tmp_path / "params.yaml").touch()
    project = tmp_path / "inner"
    (project / "docs" / "images").mkdir(parents=True)
    (project / "params.yaml").touch()
    return project


def test_the_nearest_project_is_found_from_every_folder_in_it(project: Path) -> None:
    for folder in (project, project / "docs", project / "docs" / "images"):
        assert paths.find_project(folder) == project
    assert paths.find_project(project.parent) == project.parent


def test_what_lies_above_a_dvc_repository_is_another_project(project: Path) -> None:
    (project / "params.yaml").unlink()
    assert paths.find_project(project / "docs") == project.parent
    (project / ".dvc").mkdir()
    assert paths.find_project(project / "docs") is None
    assert paths.find_project(Path("/")) is None


def test_a_params_yaml_that_is_broken_is_still_the_projects(project: Path) -> None:
    (project / "params.yaml").unlink()
    (project / "params.yaml").symlink_to("gone")
    assert paths.find_project(project / "docs") == project


def test_a_typed_path_means_what_it_means_where_the_user_stands(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "")
    monkeypatch.chdir(project / "docs")
    typed = [paths.from_here("../models"), paths.from_here("images"), paths.from_here("/data")]
    paths.enter_project()
    assert Path.cwd() == project
    assert os.environ["PWD"] == str(project)
    assert [path.resolve() for path in typed] == [project / "models", project / "docs" / "images", Path("/data")]
    assert paths.from_here("models") == Path("models"), "messages show a path as it was typed"


def test_a_folder_that_was_removed_under_the_user_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UserError, match="does not exist any more"):
        paths.enter_project()


@pytest.mark.parametrize("home", [None, "", "relative/home"])
def test_a_home_that_is_none_is_the_one_of_the_users_entry(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home or "")
    if home is None:
        monkeypatch.delenv("HOME")
    paths.ensure_user()
    assert os.environ["HOME"] == pwd.getpwuid(os.getuid()).pw_dir


def test_a_user_without_an_entry_gets_a_name_and_a_home_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")  # noted as set by the test, hence restored
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    paths.ensure_user()
    assert os.environ["HOME"] == str(tmp_path / ".cache" / "home")
    assert getpass.getuser() == str(2**31 - 7)
    assert "HOME is not set" in caplog.text
    caplog.clear()
    paths.ensure_user()  # in what we start, too
    assert not caplog.text
    assert not any(tmp_path.iterdir())


def test_a_given_home_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/not/there")
    paths.ensure_user()
    assert os.environ["HOME"] == "/not/there"


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("GPT_CACHE", str(tmp_path / "own"))
    assert paths.cache_folder("fetch") == tmp_path / "own" / "fetch"
    monkeypatch.setenv("GPT_CACHE", "")
    assert paths.cache_folder("fetch") == tmp_path / "xdg" / "gpt-pretrain" / "fetch"
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert paths.cache_folder("fetch") == tmp_path / "home" / ".cache" / "gpt-pretrain" / "fetch"


@pytest.mark.parametrize("place", ["/dev/null/cache", "/proc/cache"])
def test_a_cache_that_cannot_be_written_is_refused_by_name_or_stood_in_for(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPT_CACHE", place)
    with pytest.raises(UserError, match=rf"^GPT_CACHE = '{place}': "):
        paths.cache_folder("fetch")
    assert not any(tmp_path.iterdir())
    monkeypatch.setenv("GPT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    assert paths.cache_folder("fetch") == tmp_path / ".cache" / "gpt-pretrain" / "fetch"
    assert "GPT_CACHE names another place" in caplog.text


def test_looking_whether_a_folder_can_be_written_makes_none(tmp_path: Path) -> None:
    assert paths.why_unwritable(tmp_path / "a" / "b") is None
    assert not any(tmp_path.iterdir())
    assert paths.why_unwritable(Path("/dev/null/a/b")) == "/dev/null is no folder"
