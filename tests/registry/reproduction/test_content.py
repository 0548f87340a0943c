"""What lies at a path is compared with DVC's record of it by content."""

import json
from pathlib import Path

import pytest

from gpt.errors import UserError
from gpt.registry.reproduction.content import cache_of, differing_files, listing, md5_of, object_of


def test_files_that_changed_are_gone_or_new_are_named_whatever_their_time_and_size(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    for name in ("same", "b/changed", "gone"):
        (tmp_path / "a" / name).write_text("queen")
    recorded = {name: md5_of(tmp_path / "a" / name) for name in ("same", "b/changed", "gone")}
    assert differing_files(tmp_path / "a", recorded) == {}
    (tmp_path / "a/b/changed").write_text("qveen")
    (tmp_path / "a/gone").unlink()
    (tmp_path / "a/new").touch()
    found = differing_files(tmp_path / "a", recorded)
    assert list(found) == ["b/changed", "gone", "new"]
    assert found["b/changed"] == f"md5 was {recorded['same']}, is {md5_of(tmp_path / 'a/b/changed')}"


def test_a_folders_list_is_read_from_the_cache_that_the_project_names(tmp_path: Path) -> None:
    project = tmp_path / "a project/inside"
    project.mkdir(parents=True)
    with pytest.raises(UserError, match="not a DVC project"):
        cache_of(project)
    (project.parent / ".dvc").mkdir()
    assert cache_of(project) == project.parent / ".dvc/cache"
    (project.parent / ".dvc/config").write_text("[cache]\n    dir = ../../shared\n")
    cache = cache_of(project)
    assert cache.resolve() == tmp_path / "shared"
    path = object_of(cache, "ab12.dir")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([{"md5": "1", "relpath": "b/c"}]))
    assert listing(cache, "ab12.dir") == {"b/c": "1"}
    assert listing(cache, "ab12") == listing(cache, "cd34.dir") == {}
