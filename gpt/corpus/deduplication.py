"""Exact and near duplicates among all documents, whatever source, split or shard they are in.

Near duplicates are found by MinHash (Broder 1997) with locality-sensitive hashing as in datatrove and FineWeb: texts meet
if their signatures agree in a bucket. Of documents that meet, one stays: first of test, then of validation, then of
train; then of the source that params.yaml names first; then that with the lowest hash. So which texts stay depends neither
on shards nor on their order, and no training document repeats one that judges the model.
"""

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gpt.corpus.arrays import read_between, sort_unique
from gpt.corpus.words import ngram_hashes, split_words
from gpt.params.corpus import Deduplicate
from gpt.tasks.steps import WritingStep

SIGNATURE = np.dtype([("signature", "<u8"), ("document", "<u4")])
"A document in a bucket; a bucket's file of a shard is sorted by signature."
KEY = np.dtype([("split", "u1"), ("source", "<u2"), ("digest", "<u8")])
"What decides which of several documents stays: the lower, in this order."
PAIR = np.dtype([("first", "<u8"), ("second", "<u8")])
"Two documents that meet in a bucket, each as shard << 32 | its number there."
EXACT, NEAR = 1, 2
_EXACT_BUCKET = "exact"
_SHINGLES_AT_ONCE = 1024  # their products stay in a core's cache


def bucket_names(settings: Deduplicate) -> list[str]:
    """Return the buckets in which documents can meet."""
    near = [f"minhash_{number:03d}" for number in range(settings.buckets)] if settings.minhash else []
    return [_EXACT_BUCKET] * settings.exact + near


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
    """Write a shard's signatures and keys, and pass its documents on.

    Documents come with `digest` (SHA-256 of their text), `split` and `source` (numbers) in their metadata, and leave with
    the number of their `words`.
    """

    name = "signatures"

    def __init__(self, settings: Deduplicate, folder: Path) -> None:
        super().__init__()
        self._settings, self._folder = settings, folder

    def run(self, data: Iterable[Document] | None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        settings, buckets = self._settings, bucket_names(self._settings)
        minhash = MinHash(settings) if settings.minhash else None
        documents = array("I")
        signatures = [array("Q") for _ in buckets]
        keys = bytearray()
        for number, document in enumerate(data or ()):
            digest: bytes = document.metadata["digest"]
            words = split_words(document.text)
            document.metadata["words"] = len(words)
            keys += np.array(
                [(document.metadata["split"], document.metadata["source"], int.from_bytes(digest[:8], "big"))], KEY
            ).tobytes()
            documents.append(number)
            half = int.from_bytes(digest[8:16], "big")
            values = [half] * settings.exact
            if minhash is not None:  # without a word, as of signs alone, only the same text is near
                values += minhash.sign(words).tolist() if words else [half] * settings.buckets
            for bucket, value in zip(signatures, values, strict=True):
                bucket.append(value)
            yield document
        self.new_file(self._folder / "keys" / f"{rank:05d}").write_bytes(keys)
        for bucket, values in zip(buckets, signatures, strict=True):
            records = np.empty(len(documents), SIGNATURE)
            records["signature"], records["document"] = values, documents
            records.sort(order=("signature", "document"))
            records.tofile(self.new_file(self._folder / bucket / f"{rank:05d}"))


class Meet(WritingStep):
    """Task b: find the pairs of documents that meet in bucket b."""

    name = "pairs"

    def __init__(self, buckets: list[str], folder: Path, parts: int) -> None:
        super().__init__()
        self._buckets, self._folder, self._parts = buckets, folder, parts

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        bucket = self._buckets[rank]
        shards = [(int(path.name), path) for path in sorted((self._folder / bucket).iterdir())]
        with self.new_file(self._folder / f"{bucket}.pairs").open("wb") as file:
            # A part at a time, so that what all shards have together never is in memory at once.
            for part in range(self._parts):
                bounds = (part << 64) // self._parts, ((part + 1) << 64) // self._parts
                signatures, documents = [np.empty(0, "<u8")], [np.empty(0, "<u8")]
                for number, path in shards:
                    records = read_between(path, SIGNATURE, *bounds)
                    signatures.append(records["signature"])
                    documents.append(records["document"] | np.uint64(number << 32))
                _neighbours(np.concatenate(signatures), np.concatenate(documents)).tofile(file)
        yield from ()


class Cluster(WritingStep):
    """The one task that decides which documents go: `removed/<shard>` has a byte a document: 0, EXACT or NEAR."""

    name = "clusters"

    def __init__(self, settings: Deduplicate, folder: Path) -> None:
        super().__init__()
        self._settings, self._folder = settings, folder

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        keys = sorted((self._folder / "keys").iterdir())
        exact, near = np.empty((2, 0), "<u8"), np.empty((2, 0), "<u8")
        for bucket in bucket_names(self._settings):
            pairs = np.fromfile(self._folder / f"{bucket}.pairs", PAIR)
            pairs = np.stack([pairs["first"], pairs["second"]])
            if bucket == _EXACT_BUCKET:
                exact = pairs
            else:  # copies meet in every bucket: what only says again who is connected is forgotten
                near = _forest(np.concatenate([near, pairs], axis=1))
        involved = sort_unique(np.concatenate([exact.ravel(), near.ravel()]))
        shards, numbers = (
            (involved >> np.uint64(32)).astype(np.int64),
            (involved & np.uint64(2**32 - 1)).astype(np.int64),
        )
        key = np.empty(len(involved), KEY)
        for shard in np.unique(shards):
            key[shards == shard] = np.fromfile(keys[shard], KEY)[numbers[shards == shard]]
        places = np.empty(len(involved), np.int64)  # 0: would stay before all others
        places[np.lexsort((involved, key["digest"], key["source"], key["split"]))] = np.arange(len(involved))
        exact, near = (np.searchsorted(involved, side) for side in (exact, near))
        # The bucket compared one half of the hash; the key has another.
        exact = exact[:, key["digest"][exact[0]] == key["digest"][exact[1]]]
        # Of a cluster the first stays; it is also the first of its copies, so counting these apart changes nothing.
        flags = np.zeros(len(involved), np.uint8)
        flags[places != _lowest_connected(np.concatenate([exact, near], axis=1), places)] = NEAR
        flags[places != _lowest_connected(exact, places)] = EXACT
        for shard, path in enumerate(keys):
            removed = np.zeros(path.stat().st_size // KEY.itemsize, np.uint8)
            removed[numbers[shards == shard]] = flags[shards == shard]
            removed.tofile(self.new_file(self._folder / "removed" / path.name))
        yield from ()


def removed_documents(folder: Path, shard: int) -> np.ndarray:
    """Return for every document of a shard 0 if it stays, else EXACT or NEAR: (documents,) uint8."""
    return np.fromfile(folder / "removed" / f"{shard:05d}", np.uint8)


def _neighbours(signatures: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Return a chain of PAIRs through all documents of each signature."""
    order = np.lexsort((documents, signatures))
    signatures, documents = signatures[order], documents[order]
    same = np.flatnonzero(signatures[1:] == signatures[:-1])
    pairs = np.empty(len(same), PAIR)
    pairs["first"], pairs["second"] = documents[same], documents[same + 1]
    return pairs


def _forest(pairs: np.ndarray) -> np.ndarray:
    """Return pairs that connect what the pairs (2, n) connect, each document with the lowest of its cluster."""
    documents = sort_unique(pairs.ravel())
    places = np.arange(len(documents))
    lowest = _lowest_connected(np.searchsorted(documents, pairs), places)
    others = lowest != places
    return np.stack([documents[lowest[others]], documents[others]])


def _lowest_connected(pairs: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return for each document the lowest place in its cluster: (documents,). `pairs` is (2, n), of documents' numbers."""
    size = len(places)
    graph = coo_array((np.ones(pairs.shape[1], np.bool_), (pairs[0], pairs[1])), shape=(size, size))
    count, clusters = connected_components(graph, directed=False)
    lowest = np.full(count, size, np.int64)
    np.minimum.at(lowest, clusters, places)
    return lowest[clusters]
