"""Raw files to documents: one form, clean Unicode, no document twice, split by the document's own hash.

A document's split depends on its text alone, so adding data moves no document from training into test.
"""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gpt.errors import UserError
from gpt.files import atomic_folder, read_json, sha256_file, write_json
from gpt.params import Prepare

SPLITS = ("train", "validation", "test")
_SUFFIXES = (".txt", ".md", ".jsonl", ".parquet")


def prepare(settings: Prepare, raw: Path, output: Path, metrics: Path) -> dict[str, dict[str, Any]]:
    """Write `output/<split>.jsonl` with a document a line (id, source, text) and count everything in `metrics`.

    Raises `UserError` for a file that is not text, a missing field, or a split that would be empty.
    """
    listing = _read_listing(raw / "sources.json")
    read, dropped = Counter[str](), Counter[str]()
    documents, characters, text_bytes = Counter[str](), Counter[str](), Counter[str]()
    seen: set[bytes] = set()
    with atomic_folder(output) as folder:
        with ExitStack() as stack:
            writers = {
                split: stack.enter_context((folder / f"{split}.jsonl").open("w", encoding="utf-8")) for split in SPLITS
            }
            for name, files in listing.items():
                for text in _read_source(raw / name, files, settings.text_field):
                    read[name] += 1
                    text = _clean(text)
                    if not text.strip():
                        dropped["empty"] += 1
                        continue
                    digest = hashlib.sha256(text.encode()).digest()
                    if digest in seen:
                        dropped["exact_duplicate"] += 1
                        continue
                    seen.add(digest)
                    split = choose_split(digest, settings)
                    record = {"id": digest.hex(), "source": name, "text": text}
                    writers[split].write(json.dumps(record, ensure_ascii=False) + "\n")
                    documents[split] += 1
                    characters[split] += len(text)
                    text_bytes[split] += len(text.encode())
        _check_splits(documents)
        hashes = {split: sha256_file(folder / f"{split}.jsonl") for split in SPLITS}
        counts = {
            "read": {"documents": read.total(), "by_source": dict(read)},
            "dropped": {reason: dropped[reason] for reason in ("empty", "exact_duplicate")},
            **{
                split: {"documents": documents[split], "characters": characters[split], "bytes": text_bytes[split]}
                for split in SPLITS
            },
        }
        write_json(folder / "documents.json", {split: counts[split] | {"sha256": hashes[split]} for split in SPLITS})
        write_json(metrics, counts)  # in here: if it cannot be written, the old documents stay
    return counts


def choose_split(digest: bytes, settings: Prepare) -> str:
    """Return the split of a document from the SHA-256 of its text: a fixed place in [0, 1) decides."""
    salted = hashlib.sha256(f"{settings.split_seed}:".encode() + digest).digest()
    place = int.from_bytes(salted[:8], "big") / 2**64
    if place < settings.test_fraction:
        return "test"
    return "validation" if place < settings.test_fraction + settings.validation_fraction else "train"


def read_documents(path: Path) -> Iterator[str]:
    """Yield the texts of a split that `prepare` wrote."""
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)["text"]
    except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); run `gpt prepare` again") from None


def _read_listing(path: Path) -> dict[str, list[str]]:
    """Return the files of every source that `fetch` brought, in an order of their own."""
    try:
        return {source["name"]: sorted(source["files"]) for source in read_json(path, "run `gpt fetch` first")}
    except (KeyError, TypeError):
        raise UserError(f"{path}: is not as `gpt fetch` wrote it; run `gpt fetch` again") from None


def _read_source(folder: Path, names: list[str], text_field: str) -> Iterator[str]:
    for name in names:
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: not found, though sources.json lists it; run `gpt fetch` again")
        match path.suffix:
            case ".txt" | ".md":
                yield _without_nul(_decode(path, path.read_bytes()), f"{path}:")
            case ".jsonl":
                yield from _read_jsonl(path, text_field)
            case ".parquet":
                yield from _read_parquet(path, text_field)
            case suffix:
                raise UserError(f"{path}: files of type {suffix!r} cannot be read; known are {', '.join(_SUFFIXES)}")


def _read_jsonl(path: Path, text_field: str) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(_decode(path, line, f" line {number}"))
            except ValueError as error:
                raise UserError(f"{path}: line {number}: not valid JSON ({error}); repair or remove the line") from None
            text = record.get(text_field) if isinstance(record, dict) else None
            if not isinstance(text, str):
                raise UserError(
                    f"{path}: line {number}: has no text field {text_field!r}; set prepare.text_field in params.yaml"
                )
            yield _without_nul(text, f"{path}: line {number}:")


def _read_parquet(path: Path, text_field: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if text_field not in file.schema_arrow.names:
                columns = ", ".join(file.schema_arrow.names)
                raise UserError(
                    f"{path}: has no column {text_field!r} but {columns}; set prepare.text_field in params.yaml"
                )
            for batch in file.iter_batches(columns=[text_field]):
                for text in batch.column(0).to_pylist():
                    yield _checked_text(path, text, text_field)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); fetch it again") from None


def _checked_text(path: Path, text: object, text_field: str) -> str:
    if text is None:
        return ""
    if not isinstance(text, str):
        raise UserError(
            f"{path}: column {text_field!r} holds {type(text).__name__}, not text; set prepare.text_field in params.yaml"
        )
    return _without_nul(text, f"{path}: a text")


def _decode(path: Path, data: bytes, place: str = "") -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}:{place} not UTF-8 text (byte {error.start}); convert it, or take it out of the source"
        ) from None


def _without_nul(text: str, place: str) -> str:
    if "\0" in text:
        raise UserError(f"{place} holds NUL bytes, so it is no text; take it out of the source")
    return text


def _clean(text: str) -> str:
    """Unicode in its composed form (NFC), line ends as `\\n`; lone surrogates (possible in JSON) become U+FFFD."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFC", text)


def _check_splits(documents: Counter[str]) -> None:
    total = documents.total()
    if not total:
        raise UserError("data/raw: holds no document with text; check fetch.sources in params.yaml")
    for split in SPLITS:
        if not documents[split]:
            raise UserError(
                f"params.yaml: prepare: none of {total} documents falls into {split};"
                " change prepare.split_seed or the fractions, or add documents"
            )
