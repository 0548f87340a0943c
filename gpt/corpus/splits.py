"""The three splits, and which of them a document belongs to: its text alone decides, so adding data moves none."""

import hashlib

from gpt.params.corpus import Prepare

SPLITS = ("train", "validation", "test")


def choose_split(digest: bytes, settings: Prepare) -> str:
    """Return the split of a document from the SHA-256 of its text: a fixed place in [0, 1) decides."""
    salted = hashlib.sha256(f"{settings.split_seed}:".encode() + digest).digest()
    place = int.from_bytes(salted[:8], "big") / 2**64
    if place < settings.test_fraction:
        return "test"
    return "validation" if place < settings.test_fraction + settings.validation_fraction else "train"
