"""DVC's cache: what a branch, tag, stash, experiment, late commit or version names stays, and the rest goes."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo

from gpt.errors import UserError
from gpt.maintenance import cache
from gpt.maintenance.plan import Limits
from gpt.maintenance.project import Project
from gpt.params.project import load_params
from gpt.registry.record import Record
from tests import ROOT
from tests.conftest import small_change, write_params

NOTHING = Limits(days=0, versions=0)
LONG_AGO = "2020-01-01T00:00:00+00:00"


def git(*arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    dates = {"GIT_COMMITTER_DATE": LONG_AGO, "GIT_AUTHOR_DATE": LONG_AGO}
    subprocess.run(["git", *identity, *arguments], env=os.environ | dates, check=True, capture_output=True)


def add(text: str) -> str:
    """Let DVC keep a file with a text; return its hash."""
    Path("data.txt").unlink(missing_ok=True)
    Path("data.txt").write_text(text)
    with Repo() as repo:
        Repo.add(repo, "data.txt")
    return hashlib.md5(text.encode()).hexdigest()


def cached() -> set[str]:
    return {path.parent.name + path.name for path in Path(".dvc/cache/files/md5").glob("*/*")}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    (tmp_path / "text.jsonl").write_text('{"text": "a"}\n')
    write_params(tmp_path, small_change(tmp_path / "text.jsonl"))
    git("init", "-q")
    Repo.init(".").close()
    (tmp_path / ".gitignore").write_text("/site\n/data.txt\n")
    return Project(load_params())


def commit(text: str) -> str:
    digest = add(text)
    git("add", "-A")
    git("commit", "-qm", text)
    return digest


def listed(*digests: str) -> Record:
    outs = "".join(f"    - path: data/{digest}\n      md5: {digest}\n" for digest in digests)
    return Record({}, {"dvc.lock": f"schema: '2.0'\nstages:\n  fetch:\n    outs:\n{outs}".encode()})


def test_what_somebody_names_stays_and_the_rest_goes(project: Project) -> None:
    earlier = commit("an earlier commit")
    tagged = commit("a tag")
    git("tag", "v1")
    on_version = commit("a version that stays")
    tip = commit("the tip of the branch")
    stashed = add("a stash")
    git("stash", "-q")
    of_nobody = add("nobody's")
    experiment = add("an experiment")
    git("add", "-A")
    git("commit", "-qm", "experiment")
    baseline = subprocess.check_output(["git", "rev-parse", "HEAD~1"], text=True).strip()
    git("update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/longer", "HEAD")  # as DVC names what `dvc exp run` made
    git("reset", "-q", "--hard", "HEAD~1")
    workspace = add("the workspace")
    named = {tagged, on_version, tip, stashed, experiment, workspace}
    assert cached() == named | {earlier, of_nobody}
    (item,) = cache.look(project, NOTHING, [listed(on_version)])
    assert item.reason.startswith("2 files that no branch") and not item.stays
    assert item.size_bytes == len("an earlier commit") + len("nobody's")
    assert cached() == named | {earlier, of_nobody}, "to look changes nothing"
    cache.remove(item, project, NOTHING, [listed(on_version)])
    assert cached() == named
    (item,) = cache.look(project, NOTHING, [listed(on_version)])
    assert item.stays == "all of it is in use"


def test_late_commits_and_files_that_have_only_just_come_stay(project: Project) -> None:
    commit("one")
    commit("two")
    (item,) = cache.look(project, Limits(days=30, versions=0), [])
    assert item.stays, "of the last hour: a stage may be about to name them"
    for path in Path(".dvc/cache/files/md5").glob("*/*"):
        assert path.stat().st_ctime > time.time() - 3600
    (item,) = cache.look(project, NOTHING, [])
    assert not item.stays
    many_years = Limits(days=(time.time() - 1_500_000_000) / 86_400, versions=0)
    (item,) = cache.look(project, many_years, [])
    assert item.stays, "commits of that time count"


def hold(code: str) -> "subprocess.Popen[str]":
    script = f"import time\nfrom pathlib import Path\n{code}\nprint('held', flush=True)\ntime.sleep(600)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def of_a_flow() -> str:
    return "from gpt.locks import try_lock\nlock = try_lock(Path('.cache/runs/workspace.lock'))"


def of_dvc() -> str:
    return "import json, os\nPath('.dvc/tmp/rwlock').write_text(json.dumps({'write': {'/a': {'pid': os.getpid(), 'cmd': 'dvc'}}}))"


@pytest.mark.parametrize("holding", [of_a_flow, of_dvc])
def test_while_somebody_works_with_the_cache_it_is_left_alone(project: Project, holding: Callable[[], str]) -> None:
    commit("one")
    add("two")
    before = cached()
    (item,) = cache.look(project, NOTHING, [])
    process = hold(holding())
    try:
        with pytest.raises(UserError, match="works in this folder; run this after it"):
            cache.look(project, NOTHING, [])
        with pytest.raises(UserError, match="works in this folder; run this after it"):
            cache.remove(item, project, NOTHING, [])
    finally:
        process.kill()
        process.communicate()
    assert cached() == before


def test_a_cache_that_other_projects_may_use_is_left_alone(project: Project, tmp_path: Path) -> None:
    commit("one")
    add("two")
    before = cached()
    shared = tmp_path / "shared"
    Path(".dvc/cache").rename(shared)
    Path(".dvc/config.local").write_text(f"[cache]\n    dir = {shared}\n")
    with pytest.raises(UserError, match=r"lie in .*/shared, which other projects may use too"):
        cache.look(project, NOTHING, [])
    Path(".dvc/config.local").unlink()
    Path(".dvc/cache").symlink_to(shared)
    with pytest.raises(UserError, match="which other projects may use too"):
        cache.look(project, NOTHING, [])
    assert cached() == before


def test_an_experiment_in_a_copy_keeps_the_cache_as_it_is(project: Project) -> None:
    commit("one")
    Path(".dvc/tmp/exps/standalone/tmp1/.dvc").mkdir(parents=True)
    with pytest.raises(UserError, match="an experiment runs there, or was cut off"):
        cache.look(project, NOTHING, [])
