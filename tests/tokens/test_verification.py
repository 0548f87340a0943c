"""Shards are verified once, by several threads and machines, and again as soon as something may have touched them."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt import paths
from gpt.commands.main import main
from gpt.errors import UserError
from gpt.files import write_json
from gpt.tokens import verification
from gpt.tokens.verification import Verification, verify_shards

SHARDS = 12
SIZE = 3000  # bytes a shard


def make(folder: Path) -> Path:
    """Write a folder of shards with its index."""
    (folder / "tokens").mkdir(parents=True)
    described: dict[str, Any] = {"train": [], "validation": [], "test": []}
    for split in described:
        for number in range(SHARDS if split == "train" else 1):
            data = hashlib.shake_128(f"{split}{number}".encode()).digest(SIZE)
            name = f"{split}_{number:05d}.bin"
            (folder / "tokens" / name).write_bytes(data)
            described[split].append({"file": name, "tokens": SIZE // 2, "sha256": hashlib.sha256(data).hexdigest()})
    splits = {split: {"shards": shards} for split, shards in described.items()}
    keys = {"dtype": "<u2", "vocab_size": 300, "end_of_text": 299, "tokenizer_id": "x"}
    write_json(folder / "tokens" / "index.json", keys | {"splits": splits})
    return folder / "tokens"


@pytest.fixture(autouse=True)
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files of these tests be older than the resolution of a file system's clock."""
    monkeypatch.setattr(verification, "_RESOLUTION_NS", -(10**12))


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return make(tmp_path)


def test_what_was_verified_is_not_read_again(tokens: Path) -> None:
    assert verify_shards(tokens, ["train", "validation"]) == (SHARDS + 1) * SIZE
    assert verify_shards(tokens, ["train", "validation"]) == 0
    assert verify_shards(tokens) == SIZE, "the test split was not read before"
    assert verify_shards(tokens, again=True) == (SHARDS + 2) * SIZE


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[SIZE // 2] ^= 1
    with path.open("r+b") as file:  # in place: the inode stays
        file.write(data)


def flip_and_set_times_back(path: Path) -> None:
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def replace_and_set_times_back(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    shutil.copyfile(path, other)
    flip(other)
    other.replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit": flip,
    "a bit, size and time kept": flip_and_set_times_back,
    "another file of the same size and time": replace_and_set_times_back,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(SIZE)),
    "gone": lambda path: path.unlink(),
    "a link to another": lambda path: (path.unlink(), path.symlink_to("train_00001.bin")),
}


@pytest.mark.parametrize("is_noted", [False, True], ids=["first time", "verified before"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found_also_in_what_was_verified_before(
    tokens: Path, damage: Callable[[Path], object], is_noted: bool
) -> None:
    if is_noted:
        verify_shards(tokens)
    damage(tokens / "train_00007.bin")
    for _ in range(2):  # a bad shard is never noted
        with pytest.raises(
            UserError,
            match=r"train_00007\.bin: (SHA-256 is .*, the index says|is not there,) .*run `gpt tokenize` again",
        ):
            verify_shards(tokens)
    verify_shards(tokens, ["validation", "test"])  # the others are whole


def test_damage_that_the_file_system_did_not_notice_is_found_by_a_full_reading(
    tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of bits that turned on a disk: nothing of what the file system says has changed."""
    monkeypatch.setattr(
        verification, "_stamp", lambda sha256, status: verification.Stamp(sha256, status.st_size, 0, 0, 0)
    )
    verify_shards(tokens)
    flip(tokens / "train_00003.bin")
    assert verify_shards(tokens) == 0
    with pytest.raises(UserError, match=r"train_00003\.bin: SHA-256 is"):
        verify_shards(tokens, again=True)


def test_a_touched_shard_is_read_again_and_no_other(tokens: Path) -> None:
    verify_shards(tokens)
    os.utime(tokens / "train_00002.bin")
    (tokens / "train_00005.bin").chmod(0o600)
    assert verify_shards(tokens) == 2 * SIZE
    assert verify_shards(tokens) == 0


def test_what_was_written_just_now_is_not_noted(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second write within the resolution of the clock would leave the times as they were."""
    monkeypatch.setattr(verification, "_RESOLUTION_NS", 10**12)
    for _ in range(2):
        assert verify_shards(tokens, ["train"]) == SHARDS * SIZE


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"format": 1}', b'{"format": 1, "shards": []}', None),
        b'{"format": 1, "shards": {"train_00000.bin": 3}}',
        b'{"format": 1, "shards": {"train_00000.bin": ["x"]}}',
        b'{"format": 99, "shards": {}}',
    ],
)
def test_damaged_notes_cost_a_reading_and_nothing_else(tokens: Path, content: bytes | None) -> None:
    verify_shards(tokens)
    notes = tokens.parent / ".tokens.verified"
    if content is None:
        notes.unlink()
    else:
        notes.write_bytes(content)
    flip(tokens / "test_00000.bin")
    with pytest.raises(UserError, match=r"test_00000\.bin: SHA-256 is"):
        verify_shards(tokens)
    assert verify_shards(tokens, ["train"]) <= SHARDS * SIZE
    assert verify_shards(tokens, ["train"]) == 0


def test_notes_of_other_shards_are_forgotten(tokens: Path) -> None:
    verify_shards(tokens)
    notes = tokens.parent / ".tokens.verified"
    value = json.loads(notes.read_bytes())
    value["shards"]["train_99999.bin"] = value["shards"].pop("train_00000.bin")
    write_json(notes, value)
    assert verify_shards(tokens) == SIZE
    assert "train_99999.bin" not in json.loads(notes.read_bytes())["shards"]


def test_a_folder_where_nothing_can_be_noted_is_verified_with_a_warning(
    tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tokens.parent / ".tokens.verified.lock").mkdir()  # as root, tests may write anywhere
    for _ in range(2):
        assert verify_shards(tokens) == (SHARDS + 2) * SIZE
    assert "what was verified cannot be noted" in caplog.text
    assert "each start will read all shards" in caplog.text


def test_many_writers_lose_no_note(tokens: Path) -> None:
    writers = [
        verification.Notes(tokens, {f"train_{number:05d}.bin" for number in range(SHARDS)}) for _ in range(SHARDS)
    ]
    stamps = [verification.Stamp(f"{number}", number, 0, 0, 0) for number in range(SHARDS)]
    begin = threading.Barrier(SHARDS)

    def write(number: int) -> None:
        writers[number].add(f"train_{number:05d}.bin", stamps[number])
        begin.wait()
        writers[number].exchange()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(SHARDS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = verification.Notes(tokens, {f"train_{number:05d}.bin" for number in range(SHARDS)})
    assert all(reader.knows(f"train_{number:05d}.bin", stamp) for number, stamp in enumerate(stamps))


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Let threads hash as many shards as the semaphore is released."""
    allowed, original = threading.Semaphore(0), Verification._hash

    def wait_and_hash(self: Verification, file: Any) -> str | None:
        allowed.acquire()
        return original(self, file)

    monkeypatch.setattr(Verification, "_hash", wait_and_hash)
    yield allowed
    allowed.release(10 * SHARDS)


def test_a_stopped_verification_goes_on_where_it_was(tokens: Path, hashing: threading.Semaphore) -> None:
    hashing.release(5)
    with Verification(tokens, ["train"], threads=1) as work:
        while work.read_bytes < 5 * SIZE:
            assert not work.wait(0.01)
        hashing.release(1)  # of the sixth the first piece is read, and no more
    hashing.release(SHARDS)
    assert 5 * SIZE <= work.read_bytes <= 6 * SIZE
    assert verify_shards(tokens, ["train"]) <= (SHARDS - 5) * SIZE


def test_machines_that_share_a_folder_share_the_work(tokens: Path, hashing: threading.Semaphore) -> None:
    with (
        Verification(tokens, ["train"], threads=1, part=(0, 2)) as first,
        Verification(tokens, ["train"], threads=1, part=(1, 2)) as second,
    ):
        hashing.release(SHARDS)
        while not (first.wait(0.01) & second.wait(0.01)):
            for work in (first, second):
                work._notes.exchange()
            hashing.release()
    assert first.read_bytes + second.read_bytes < 2 * SHARDS * SIZE
    assert verify_shards(tokens, ["train"]) == 0


def test_machines_with_folders_of_their_own_read_each_all(tmp_path: Path) -> None:
    for number in range(2):
        folder = make(tmp_path / str(number))
        with Verification(folder, ["train"], part=(number, 2)) as work:
            while not work.wait(1):
                pass
        assert work.read_bytes == SHARDS * SIZE


def test_it_is_told_how_far_it_is(tokens: Path, hashing: threading.Semaphore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_EXCHANGE_SECONDS", 0)
    lines: list[str] = []
    with Verification(tokens, ["train"], threads=2, tell=lines.append) as work:
        while not work.wait(0.01):
            hashing.release()
    assert lines
    assert all(line.startswith(f"verifying {tokens}: ") and f" of {SHARDS} shards, " in line for line in lines)


def test_several_threads_read_at_the_same_time(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together, original = threading.Barrier(4, timeout=30), Verification._hash

    def meet_and_hash(self: Verification, file: Any) -> str | None:
        together.wait()  # breaks, if fewer than four are here
        return original(self, file)

    monkeypatch.setattr(Verification, "_hash", meet_and_hash)
    with Verification(tokens, ["train"], threads=4) as work:
        while not work.wait(1):
            pass
    assert work.read_bytes == SHARDS * SIZE


def test_the_command_reads_all_again_and_names_the_damaged_shard(
    prepared_project: Path, copy_project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    copy_project(prepared_project)
    size = sum(path.stat().st_size for path in paths.TOKENS.glob("*.bin"))
    for _ in range(2):
        assert main(["tokens", "verify"]) == 0
        assert f"data/tokens: {size:,} bytes read" in capsys.readouterr().out
    shard = paths.TOKENS / "test_00000.bin"
    shard.write_bytes(bytes(shard.stat().st_size))
    assert main(["tokens", "verify"]) == 2
    assert "error: data/tokens/test_00000.bin: SHA-256 is " in capsys.readouterr().err
