"""An encrypted backup is decrypted to what was encrypted, or rejected."""

import io
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from typing import BinaryIO

import pytest

from app.operations.backup import encryption
from app.operations.backup.encryption import (
    HEADER_BYTES,
    MAGIC,
    MAX_PASSPHRASE_LENGTH,
    MIN_PASSPHRASE_LENGTH,
    SEGMENT_BYTES,
    TAG_BYTES,
    decrypt,
    encrypt,
)
from app.operations.backup.errors import BackupError
from tests.support.backups import CHEAP_LOG_COST

PASSPHRASE = "the lady of the lake"
DEFAULT_LOG_COST = encryption.LOG_COST
PLAIN = os.urandom(3 * SEGMENT_BYTES + 1000)
STREAM_BYTES = 40 * 2**20


@pytest.fixture(scope="module", autouse=True)
def cheap_keys() -> Iterator[None]:
    """Each key is derived once, at a low cost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encryption, "LOG_COST", CHEAP_LOG_COST)
        patch.setattr(encryption, "_derive_cipher", cache(encryption._derive_cipher))
        yield


def encrypted(content: bytes, passphrase: str = PASSPHRASE) -> bytes:
    target = io.BytesIO()
    encrypt(io.BytesIO(content), target, passphrase)
    return target.getvalue()


def decrypted(content: bytes, passphrase: str = PASSPHRASE) -> bytes:
    source, target = io.BytesIO(content), io.BytesIO()
    assert source.read(len(MAGIC)) == MAGIC
    decrypt(source, target, passphrase)
    return target.getvalue()


@pytest.fixture(scope="module")
def whole() -> bytes:
    return encrypted(PLAIN)


@pytest.fixture(scope="module")
def other() -> bytes:
    """Another backup of the same length, with the same passphrase."""
    return encrypted(PLAIN)


def segment(number: int) -> slice:
    length = SEGMENT_BYTES + TAG_BYTES
    start = HEADER_BYTES + number * length
    return slice(start, start + length)


@pytest.mark.parametrize(
    "length", [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 2 * SEGMENT_BYTES]
)
def test_encrypted_content_is_decrypted(length: int) -> None:
    content = PLAIN[:length]
    stored = encrypted(content)
    assert decrypted(stored) == content
    assert content[:16] not in stored or length < 16


def test_the_default_cost_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "LOG_COST", DEFAULT_LOG_COST)
    content = encrypted(b"Camelot")
    assert decrypted(content) == b"Camelot"
    assert content[len(MAGIC) : len(MAGIC) + 4] == bytes([1, 17, 8, 1])


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


Change = Callable[[bytes, bytes], bytes]
CHANGES: dict[str, Change] = {
    "cut in the parameters": lambda it, _: it[: HEADER_BYTES - 1],
    "nothing after the header": lambda it, _: it[:HEADER_BYTES],
    "one byte less": lambda it, _: it[:-1],
    "without the last segment": lambda it, _: it[: segment(3).start],
    "without the last two segments": lambda it, _: it[: segment(2).start],
    "without the first segment": lambda it, _: it[:HEADER_BYTES] + it[segment(1).start :],
    "without one in between": lambda it, _: it[: segment(1).start] + it[segment(2).start :],
    "two swapped": lambda it, _: (
        it[: segment(1).start] + it[segment(2)] + it[segment(1)] + it[segment(3).start :]
    ),
    "one doubled": lambda it, _: it[: segment(2).start] + it[segment(1)] + it[segment(2).start :],
    "the last one doubled": lambda it, _: it + it[segment(3)],
    "a full one appended": lambda it, _: it + it[segment(0)],
    "a byte appended": lambda it, _: it + b"\0",
    "one of another backup": lambda it, other: (
        it[: segment(1).start] + other[segment(1)] + it[segment(2).start :]
    ),
    "the header of another backup": lambda it, other: other[:HEADER_BYTES] + it[HEADER_BYTES:],
    "another version": lambda it, _: flipped(it, len(MAGIC)),
    "another cost": lambda it, _: flipped(it, len(MAGIC) + 1),
    "another block size": lambda it, _: flipped(it, len(MAGIC) + 2),
    "another parallelism": lambda it, _: flipped(it, len(MAGIC) + 3),
    "another salt": lambda it, _: flipped(it, len(MAGIC) + 4),
    "another nonce": lambda it, _: flipped(it, HEADER_BYTES - 1),
    "a bit of the first segment": lambda it, _: flipped(it, segment(0).start),
    "a bit in the middle": lambda it, _: flipped(it, segment(2).start + 100),
    "a bit of the last tag": lambda it, _: flipped(it, len(it) - 1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_backup_is_rejected(change: Change, whole: bytes, other: bytes) -> None:
    changed = change(whole, other)
    assert changed != whole
    with pytest.raises(BackupError, match=r"changed|cut off|newer version"):
        decrypted(changed)


@pytest.mark.parametrize("log_cost", [0, 13, 21, 63, 255])
def test_a_header_cannot_demand_more_memory_than_a_gibibyte(whole: bytes, log_cost: int) -> None:
    position = len(MAGIC) + 1
    changed = whole[:position] + bytes([log_cost]) + whole[position + 1 :]
    with pytest.raises(BackupError, match="The header of the backup was changed"):
        decrypted(changed)


@pytest.mark.parametrize("passphrase", ["the lady of the sea", "", "x" * 5000])
def test_a_wrong_passphrase_is_named_as_a_cause(whole: bytes, passphrase: str) -> None:
    with pytest.raises(BackupError, match="The passphrase is wrong") as refused:
        decrypted(whole, passphrase)
    assert PASSPHRASE not in str(refused.value)


def test_a_passphrase_is_the_same_on_every_keyboard() -> None:
    composed, decomposed = "the castle of Tintagél", "the castle of Tintage\u0301l"
    assert composed != decomposed
    assert decrypted(encrypted(b"Camelot", composed), decomposed) == b"Camelot"


@pytest.mark.parametrize("length", [0, MIN_PASSPHRASE_LENGTH - 1, MAX_PASSPHRASE_LENGTH + 1])
def test_a_passphrase_that_is_too_short_or_too_long_encrypts_nothing(length: int) -> None:
    target = io.BytesIO()
    with pytest.raises(BackupError, match="between 12 and 1024 characters"):
        encrypt(io.BytesIO(b"Camelot"), target, "x" * length)
    assert target.getvalue() == b""


class Zeros(io.RawIOBase):
    """As long as it is told to be, and as slow to give as a pipe: 40,000 bytes each time."""

    def __init__(self, length: int) -> None:
        self._left = length

    def read(self, size: int = -1) -> bytes:
        given = min(size, 40_000, self._left)
        self._left -= given
        return bytes(given)


class Counter(io.RawIOBase):
    def __init__(self) -> None:
        self.length = 0

    def write(self, content: bytes) -> int:  # type: ignore[override]  # bytes are all that is written
        self.length += len(content)
        return len(content)


def test_a_long_backup_takes_no_more_memory_than_a_short_one() -> None:
    """Encrypted in one thread and decrypted in another, with a pipe in between."""
    read_end, write_end = os.pipe()
    restored = Counter()

    def write() -> None:
        with os.fdopen(write_end, "wb") as target:
            encrypt(zeros, target, PASSPHRASE)

    zeros: BinaryIO = Zeros(STREAM_BYTES)  # type: ignore[assignment]  # has the part that is used
    writing = threading.Thread(target=write)
    tracemalloc.start()
    try:
        writing.start()
        with os.fdopen(read_end, "rb") as source:
            assert source.read(len(MAGIC)) == MAGIC
            decrypt(source, restored, PASSPHRASE)  # type: ignore[arg-type]  # as above
        writing.join()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert restored.length == STREAM_BYTES
    assert most < 32 * SEGMENT_BYTES
