"""What a version was made from comes from DVC's cache, whatever its settings are called. DVC itself brings it."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpt.registry.record import Record, list_stages
from gpt.registry.reproduction.data import bring_data
from gpt.registry.reproduction.place import open_place
from tests.registry.reproduction.test_changes import keep_in_cache
from tests.registry.test_lineage import git

STAGE = """stages:
  fetch_weights:
    cmd: "false"
    deps: [data/inputs/fetch_weights.json]
    params: [train.init_from]
    outs: [models/initial]
"""
LOCK = """schema: '2.0'
stages:
  fetch_weights:
    cmd: "false"
    deps:
    - path: data/inputs/fetch_weights.json
      hash: md5
      md5: {entry}
      size: 7
    params:
      params.yaml:
        train.init_from: models:/small@champion
    outs:
    - path: models/initial
      hash: md5
      md5: {listing}
      size: 7
      nfiles: 1
"""


def test_weights_that_an_alias_names_come_from_dvcs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("")
    (tmp_path / ".dvc/.gitignore").write_text("/tmp\n/cache\n/config.local\n")
    (tmp_path / "dvc.yaml").write_text(STAGE)
    (tmp_path / "params.yaml").write_text("train: {init_from: 'models:/small@champion'}\n")
    git(tmp_path, "init")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-m", "begin")
    monkeypatch.chdir(tmp_path)
    entry = keep_in_cache(tmp_path, b"weights")
    files = [{"md5": entry, "relpath": "model.safetensors"}]
    lock = LOCK.format(entry=entry, listing=keep_in_cache(tmp_path, json.dumps(files).encode(), ".dir")).encode()
    values: dict[str, Any] = {"code": {"commit": git(tmp_path, "rev-parse", "HEAD")}, "sources": [], "inputs": {}}
    values |= {
        "stages": list_stages(lock),
        "parents": {"started_from": {"kind": "version", "name": "small", "version": 1}},
    }
    told: list[str] = []
    with open_place(tmp_path, "models:/small/2", Record(values, {"dvc.lock": lock}), {}) as place:
        bring_data(place, Record(values, {"dvc.lock": lock}), told.append)
        assert told == ["models/initial: from DVC's cache"]
        assert (place.project / "models/initial/model.safetensors").read_bytes() == b"weights"
        place.remove()
