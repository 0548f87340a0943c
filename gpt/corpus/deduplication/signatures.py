"""What a document is known by among all: the hash of its text, and MinHash signatures of its words.

Near duplicates are found by MinHash (Broder 1997) with locality-sensitive hashing as in datatrove and FineWeb: texts meet if their
signatures agree in a bucket. In one more bucket the same texts meet.
"""

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document

from gpt.corpus.deduplication.numbering import class_of
from gpt.corpus.words import ngram_hashes, split_words
from gpt.params.corpus import Deduplicate
from gpt.tasks.steps import WritingStep

EXACT_BUCKET = "exact"
DIGEST = np.dtype("<u8")
POSITION = np.dtype("<u4")
_SIGNATURE = np.dtype([("signature", "<u8"), ("document", "<u4")])
"A document in a bucket, by its place in the shard's order by class; a bucket's file of a shard is sorted by signature."
_DIGEST_SIGNATURE = np.dtype([*_SIGNATURE.descr, ("digest", DIGEST)])
"In the bucket of same texts the signature is one half of the hash, and this the other."
_SHINGLES_AT_ONCE = 1024  # their products stay in a core's cache


def bucket_names(settings: Deduplicate) -> list[str]:
    """Return the buckets in which documents can meet."""
    return [EXACT_BUCKET, *(f"minhash_{number:03d}" for number in range(settings.buckets * settings.minhash))]


def signature_type(bucket: str) -> np.dtype:
    """Return the type of a bucket's records."""
    return _DIGEST_SIGNATURE if bucket == EXACT_BUCKET else _SIGNATURE


class MinHash:
    """Signatures of texts: one number a bucket, in which two texts agree as their sets of shingles do.

    Texts of Jaccard similarity s agree in a bucket with probability s ** hashes.
    """

    def __init__(self, settings: Deduplicate) -> None:
        self._settings = settings
        random = np.random.Philox(key=settings.seed)
        shape = (settings.buckets * settings.hashes,)
        self._factors = random.random_raw(shape).astype(np.uint64) | np.uint64(1)
        self._offsets = random.random_raw(shape).astype(np.uint64)

    def sign(self, words: list[str]) -> np.ndarray:
        """Return (buckets,) uint64; a text shorter than a shingle is one shingle."""
        settings = self._settings
        shingles = ngram_hashes(words, min(settings.ngram, len(words)))
        least = np.full(len(self._factors), np.iinfo(np.uint64).max, dtype=np.uint64)
        for start in range(0, len(shingles), _SHINGLES_AT_ONCE):  # a long text must not fill memory
            piece = shingles[start : start + _SHINGLES_AT_ONCE, None]
            np.minimum(least, (piece * self._factors + self._offsets).min(axis=0), out=least)
        folded = np.zeros(settings.buckets, dtype=np.uint64)
        for column in least.reshape(settings.buckets, settings.hashes).T:
            folded = (folded ^ (column >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15) + column
        return folded


class Sign(WritingStep):
    """Write a shard's signatures, and pass its documents on.

    Documents come with `digest` (SHA-256 of their text), `split` and `source` (numbers) in their metadata, and leave with
    the number of their `words`. Ordered by class, as in all that is written: `positions/<shard>` says where each document was,
    `digests/<shard>` has a half of its hash, `numbers/<shard>.json` how many there are of each class.
    """

    name = "signatures"

    def __init__(self, settings: Deduplicate, folder: Path) -> None:
        super().__init__()
        self._settings, self._folder = settings, folder

    def run(self, data: Iterable[Document] | None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        settings, buckets = self._settings, bucket_names(self._settings)
        minhash = MinHash(settings) if settings.minhash else None
        signatures = [array("Q") for _ in buckets]
        digests, classes = array("Q"), array("I")
        for document in data or ():
            digest: bytes = document.metadata["digest"]
            words = split_words(document.text)
            document.metadata["words"] = len(words)
            classes.append(class_of(document.metadata["split"], document.metadata["source"]))
            digests.append(int.from_bytes(digest[:8], "big"))
            half = int.from_bytes(digest[8:16], "big")
            values = [half]
            if minhash is not None:  # without a word, as of signs alone, only the same text is near
                values += minhash.sign(words).tolist() if words else [half] * settings.buckets
            for bucket, value in zip(signatures, values, strict=True):
                bucket.append(value)
            yield document
        name = f"{rank:05d}"
        positions = np.argsort(np.array(classes), kind="stable")
        ordered = np.array(digests, DIGEST)[positions]
        positions.astype(POSITION).tofile(self.new_file(self._folder / "positions" / name))
        ordered.tofile(self.new_file(self._folder / "digests" / name))
        for bucket, values in zip(buckets, signatures, strict=True):
            records = np.empty(len(positions), signature_type(bucket))
            records["signature"], records["document"] = np.array(values, DIGEST)[positions], np.arange(len(positions))
            if bucket == EXACT_BUCKET:
                records["digest"] = ordered
            records = records[np.argsort(records["signature"], kind="stable")]
            records.tofile(self.new_file(self._folder / bucket / name))
        present, counts = np.unique(np.array(classes, np.int64), return_counts=True)
        report = {str(number): count for number, count in zip(present.tolist(), counts.tolist(), strict=True)}
        self.write_report(self._folder / "numbers", rank, report)
