"""An object store that speaks as much of S3 as its clients need to list and read: pages of listings, ranges, ETags, keys."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.sources.web import Handler, serving

KEY = "AKIATESTOFTHESTORE"


@dataclass
class Store:
    """Objects by bucket/key. `AWS_ENDPOINT_URL` is its `url`, `AWS_ACCESS_KEY_ID` is `KEY`."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    page: int = 2
    "Objects of a listing that come at once."
    got: list[str] = field(default_factory=list)
    "Of each answer with bytes: `bucket/key FIRST-LAST`, or without a range."


@contextmanager
def s3() -> Iterator[Store]:
    """Serve a store meanwhile."""
    state = Store()

    class Answers(Handler):
        def do_GET(self) -> None:  # noqa: N802
            address = urlsplit(self.path)
            bucket, _, key = unquote(address.path).lstrip("/").partition("/")
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            if f"Credential={KEY}/" not in self.headers.get("Authorization", ""):
                self.refuse(403, "AccessDenied")
            elif not any(name.startswith(f"{bucket}/") for name in state.objects):
                self.refuse(404, "NoSuchBucket")
            elif not key:
                self.list(bucket, query)
            elif (data := state.objects.get(f"{bucket}/{key}")) is None:
                self.refuse(404, "NoSuchKey")
            else:
                if self.command == "GET":
                    state.got.append(f"{bucket}/{key} {self.headers.get('Range', '').removeprefix('bytes=')}".rstrip())
                self.send(200, data, {"ETag": f'"{etag(data)}"', "Last-Modified": "Fri, 27 Nov 2026 06:00:00 GMT"})

        do_HEAD = do_GET  # noqa: N815

        def refuse(self, status: int, code: str) -> None:
            self.send(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

        def list(self, bucket: str, query: dict[str, str]) -> None:
            prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
            keys = sorted(
                name.removeprefix(f"{bucket}/") for name in state.objects if name.startswith(f"{bucket}/{prefix}")
            )
            folders = sorted({f"{prefix}{key.removeprefix(prefix).split(delimiter)[0]}{delimiter}" for key in keys
                              if delimiter and delimiter in key.removeprefix(prefix)})  # fmt: skip
            keys = [key for key in keys if not any(key.startswith(folder) for folder in folders)]
            first = int(query.get("continuation-token", "0"))
            last = first + state.page
            more = f"<NextContinuationToken>{last}</NextContinuationToken>" if last < len(keys) else ""
            objects = "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>{len(state.objects[f'{bucket}/{key}'])}</Size>"
                f"<ETag>&quot;{etag(state.objects[f'{bucket}/{key}'])}&quot;</ETag>"
                "<LastModified>2026-11-27T06:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
                for key in keys[first:last]
            )
            below = "".join(f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders)
            truncated = str(bool(more)).lower()
            body = (
                '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(keys[first:last])}</KeyCount>"
                f"<MaxKeys>{state.page}</MaxKeys><IsTruncated>{truncated}</IsTruncated>{more}{objects}{below}</ListBucketResult>"
            )
            self.send(200, body.encode(), {"Content-Type": "application/xml"})

    with serving(Answers) as port:
        state.url = f"http://127.0.0.1:{port}"
        yield state


def etag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
