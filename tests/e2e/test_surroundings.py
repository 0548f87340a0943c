"""What is made of the same inputs does not depend on where and when: hash seeds, clock, locale, cores, order of directories."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from gpt import paths
from gpt.files import sha256_file, sha256_tree
from tests import ROOT
from tests.conftest import write_params
from tests.corpus.raw import html, jsonl, warc

STAGES = ("fetch", "prepare", "tokenizer", "tokenize", "data-card")
OUTPUTS = ("data/raw", "data/documents", "models/tokenizer", "data/tokens", "reports")
COUNTS = (paths.PREPARE_COUNTS, paths.TOKENIZE_COUNTS)
HERE = {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C", "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
ELSEWHERE = {
    "PYTHONHASHSEED": "4711",
    "TZ": "Asia/Kathmandu",
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "3",
    "RAYON_NUM_THREADS": "4",
    "PYTHONUTF8": "1",
}


def texts(seed: int) -> list[str]:
    choose = random.Random(seed)
    words = ["to", "be", "or", "not", "queen", "crown", "sword", "night", "naïve", "Straße", "王", "the", "of", "and"]
    return [" ".join(choose.choices(words, k=80)) + "." for _ in range(60)]


def make_files() -> dict[str, bytes]:
    """Return files of each format by name, with copies of documents, within a file and across files."""
    return {
        "one.jsonl": jsonl(*texts(1), texts(1)[0]),
        "two.jsonl": jsonl(*texts(2), *texts(1)[:5]),
        "three.txt": texts(3)[0].encode(),
        "pages.warc": warc(*(("response", "text/html", html(text)) for text in texts(4))),
    }


@pytest.mark.slow
def test_no_byte_of_the_data_depends_on_its_surroundings(tmp_path: Path) -> None:
    files, made = make_files(), []
    for name, environment, workers in (("here", HERE, 1), ("elsewhere", ELSEWHERE, 2)):
        folder = tmp_path / name / "project"
        (folder / "texts").mkdir(parents=True)
        for file in files if workers == 1 else reversed(files):
            (folder / "texts" / file).write_bytes(files[file])
        source = {
            "name": "all",
            "kind": "local",
            "path": "texts",
            "licence": "none",
            "sha256": sha256_tree(folder / "texts"),
        }
        write_params(
            folder,
            {
                "fetch": {"sources": [source], "benchmarks": []},
                "prepare": {
                    "engine": {
                        "kind": "local",
                        "workers": workers,
                        "memory_gb": 1,
                        "slurm_partition": "",
                        "slurm_time": "1:00:00",
                    },
                    "shards": 3,
                    "validation_fraction": 0.2,
                    "test_fraction": 0.2,
                },
                "tokenizer": {"kind": "bpe", "vocab_size": 300},
                "tokenize": {"shard_tokens": 1024},
                "evaluate": {"benchmarks": []},
            },
        )
        for stage in STAGES:
            subprocess.run(
                [sys.executable, "-m", "gpt", stage],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "GPT_CACHE": str(tmp_path / name / "cache"), **environment},
                check=True,
                timeout=200,
            )
        hashes = {output: sha256_tree(folder / output) for output in OUTPUTS}
        made.append(hashes | {str(path): sha256_file(folder / path) for path in COUNTS})
    assert made[0] == made[1]
