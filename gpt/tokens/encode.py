"""Documents to tokens, each once, in files that are kept beside the token shards.

Order, weights and the size of shards are no matter here: a change of theirs finds the tokens again. Only another tokenizer, other
documents, or other code or libraries that encode make them anew; then the old ones go.
"""

import hashlib
import logging
import mmap
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document

from gpt.code import describe_differences, stage_identity
from gpt.corpus.documents import read_file
from gpt.files import read_json, sha256_json, verify_file
from gpt.params.engine import Engine
from gpt.tasks.executors import Tasks
from gpt.tasks.steps import WritingStep
from gpt.tasks.work import begin_work, has_identity, read_identity, remove_work
from gpt.tokens.tokenizer import encode_document, load_tokenizer, tokenizer_id

DOCUMENT = np.dtype([("tokens", "<u4"), ("bytes", "<u8"), ("words", "<u8"), ("source", "<u2"), ("name", "<u2")])
"Tokens with <|endoftext|>, UTF-8 bytes and words of a document, the number of its source, and how many bytes its name has."
_KEY_DIGITS = 16

SplitFile = tuple[str, dict[str, Any]]
"A split, and a file of it as documents.json describes it: file, bytes, sha256."

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """A file of documents as tokens: the end of one is the beginning of the next."""

    tokens: Path
    documents: np.ndarray
    "(documents,) DOCUMENT, in the order of the file."
    sources: list[str]
    _names: bytes | mmap.mmap

    def names(self) -> Iterator[str]:
        """Yield the documents' ids."""
        end = 0
        for size in self.documents["name"]:
            start, end = end, end + int(size)
            yield self._names[start:end].decode()


def encode(files: list[SplitFile], documents: Path, tokenizer: Path, engine: Engine, root: Path) -> Path:
    """Encode the files of the folder `documents` that are not encoded yet; return the folder of `root` that holds them all.

    File number f of `files` is there for `load_encoded(folder, f)`. Raises `UserError` for one that `prepare` did not write so.
    """
    identity = {
        "inputs": {(documents / entry["file"]).as_posix(): entry["sha256"] for _, entry in files}
        | {tokenizer.as_posix(): tokenizer_id(tokenizer)},
        **stage_identity("encode"),
    }
    folder = root / sha256_json(identity)[:_KEY_DIGITS]
    others = [path for path in sorted(root.glob("*")) if path != folder]
    if not has_identity(folder, identity):
        for other in others:
            lines = (f"  {line}" for line in describe_differences(read_identity(other) or {}, identity))
            _log.warning(
                "%s: not of use any more; removed when documents are encoded anew:\n%s", other, "\n".join(lines)
            )
        remove_work(folder)
        begin_work(folder, identity)
    with Tasks(engine, folder / "tasks") as tasks:
        tasks.run("encode", len(files), EncodeFile(files, documents, tokenizer, folder))
    for other in others:
        remove_work(other)
    return folder


def load_encoded(folder: Path, number: int) -> Encoded:
    """Return the tokens and documents of a file; raise `UserError` if they are not what was written."""
    tokens, table, names = (folder / f"{number:05d}.{ending}" for ending in ("tokens", "documents", "names"))
    hint = f"remove {folder}: it is made again"
    report = read_json(folder / f"{number:05d}.json", hint, ("sources", "sha256"))
    for path in (tokens, table, names):
        verify_file(path, report["sha256"][path.suffix[1:]], "its report", hint)
    with names.open("rb") as file:  # mapped: names of all documents together may be as much as memory
        text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if names.stat().st_size else b""
    return Encoded(tokens, np.fromfile(table, DOCUMENT), report["sources"], text)


class EncodeFile(WritingStep):
    """Task f: encode a file of documents, each ended by <|endoftext|>, and note what each is."""

    name = "encode"

    def __init__(self, files: list[SplitFile], documents: Path, tokenizer: Path, output: Path) -> None:
        super().__init__()
        self._files, self._documents, self._tokenizer, self._output = files, documents, tokenizer, output

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        encoding = load_tokenizer(self._tokenizer)
        dtype = token_dtype(encoding.n_vocab)
        columns = {
            "tokens": array("I"),
            "bytes": array("Q"),
            "words": array("Q"),
            "source": array("H"),
            "name": array("H"),
        }
        sources: dict[str, int] = {}
        paths = {
            ending: self.new_file(self._output / f"{rank:05d}.{ending}") for ending in ("tokens", "documents", "names")
        }
        digests = {ending: hashlib.sha256() for ending in paths}
        with paths["tokens"].open("wb") as file, paths["names"].open("wb") as names:
            for document in read_file(self._documents, self._files[rank][1]):
                tokens = encode_document(encoding, document["text"])
                written, name = tokens.astype(dtype).tobytes(), document["id"].encode()
                file.write(written)
                names.write(name)
                digests["tokens"].update(written)
                digests["names"].update(name)
                columns["tokens"].append(len(tokens))
                columns["bytes"].append(len(document["text"].encode()))
                columns["words"].append(document["words"])
                columns["source"].append(sources.setdefault(document["source"], len(sources)))
                columns["name"].append(len(name))
        table = np.empty(len(columns["tokens"]), DOCUMENT)
        for column, values in columns.items():
            table[column] = values
        table.tofile(paths["documents"])
        digests["documents"].update(table.tobytes())
        hashes = {ending: digest.hexdigest() for ending, digest in digests.items()}
        self.write_report(self._output, rank, {"sources": list(sources), "sha256": hashes})
        yield from ()


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the integers that hold the tokens of a vocabulary: 2 bytes if they suffice, else 4."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
