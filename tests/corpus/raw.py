"""A data/raw of a test, and files of every format to put into it."""

import bz2
import gzip
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from datatrove.data import Document

from gpt.corpus.reading.readers import ReadSources
from gpt.files import write_json
from gpt.params.corpus import Prepare
from gpt.params.project import load_params

PREPARE = load_params(Path(__file__).parents[2] / "params.yaml").prepare


def settings(malformed: str = "error", limit: int = 1_000_000, **read: Any) -> Prepare:
    values = PREPARE.model_dump()
    return Prepare.model_validate(
        values | {"malformed": malformed, "max_document_bytes": limit, "read": values["read"] | read}
    )


class Raw:
    """A folder as `gpt fetch` leaves it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources: dict[str, dict[str, Any]] = {}

    def write(self, name: str, data: bytes, source: str = "web") -> Path:
        path = self.folder / source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.enlist(name, source, len(data))
        return path

    def enlist(self, name: str, source: str = "web", size: int = 0) -> Path:
        self.sources.setdefault(source, {})[name] = {"bytes": size}
        listing = [{"name": source, "files": files} for source, files in self.sources.items()]
        write_json(self.folder / "sources.json", listing)
        return self.folder / source / name

    def read(self, settings: Prepare, rank: int = 0, world_size: int = 1) -> tuple[list[Document], ReadSources]:
        step = ReadSources(settings, self.folder)
        return list(step.run(None, rank, world_size)), step

    def texts(self, settings: Prepare) -> list[str]:
        return [document.text for document in self.read(settings)[0]]


def sent(step: Any) -> Any:
    """Return a step as it arrives in another process."""
    return pickle.loads(pickle.dumps(step))  # noqa: S301


def jsonl(*texts: Any) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue().to_pybytes()


def bad_strings() -> pa.Array:
    """Return a column of text that is not UTF-8 in its second row."""
    return pa.array([b"good", b"\xff\xfe bad", b"fine"], pa.binary()).view(pa.string())


def warc(*records: tuple[str, str, bytes], compress: bool = False) -> bytes:
    """Return a WARC file of (type, content type, content): `response` records get HTTP headers."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    sink = io.BytesIO()
    writer = WARCWriter(sink, gzip=compress)
    for number, (kind, content_type, content) in enumerate(records):
        headers = StatusAndHeaders("200 OK", [("Content-Type", content_type)], "HTTP/1.1")
        writer.write_record(
            writer.create_warc_record(
                f"http://example.org/{number}",
                kind,
                payload=io.BytesIO(content),
                http_headers=headers if kind == "response" else None,
                warc_content_type="application/http" if kind == "response" else content_type,
            )
        )
    return sink.getvalue()


def html(text: str) -> bytes:
    return f"<html><head><title>t</title></head><body><article><p>{text}</p></article></body></html>".encode()


def arrow(columns: dict[str, Any], stream: bool = False, batch: int = 100, **options: Any) -> bytes:
    """Return an Arrow IPC file, or a stream."""
    table, sink = pa.table(columns), pa.BufferOutputStream()
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=batch)
    return sink.getvalue().to_pybytes()


COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}
