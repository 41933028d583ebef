"""Encrypts a backup with a passphrase, segment by segment, in constant memory.

The key is derived by scrypt with a random salt. Each segment is encrypted with AES-256-GCM. Its
nonce has the segment's number and whether it is the last one (the STREAM construction of Hoang,
Reyhanitabar, Rogaway and Vizár), and the header is authenticated with each. So a segment that is
cut off, moved, repeated, appended or taken from another file is rejected, and so is another header.
"""

import secrets
import struct
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from app.operations.backup.errors import BackupError

MAGIC = b"hourpass backup\n"
SEGMENT_BYTES = 64 * 1024
TAG_BYTES = 16
MIN_PASSPHRASE_LENGTH = 12
MAX_PASSPHRASE_LENGTH = 1024

# The base-2 logarithm of scrypt's cost: 128 MiB of memory, and about half a second.
LOG_COST = 17

_VERSION = 1
_BLOCK_SIZE, _PARALLELISM = 8, 1
# What a header may demand. More than 20 would be more than 1 GiB.
_MIN_LOG_COST, _MAX_LOG_COST = 14, 20
# After MAGIC: version, scrypt's cost (log2), block size and parallelism, salt, start of the nonce.
_PARAMETERS = struct.Struct(">BBBB16s7s")
_REST_OF_NONCE = struct.Struct(">I?")
HEADER_BYTES = len(MAGIC) + _PARAMETERS.size


@dataclass(frozen=True, slots=True)
class _Segments:
    """What the segments of a file have in common."""

    cipher: AESGCM
    nonce_prefix: bytes
    header: bytes

    def encrypt(self, number: int, segment: bytes, *, is_last: bool) -> bytes:
        return self.cipher.encrypt(self._nonce(number, is_last), segment, self.header)

    def decrypt(self, number: int, segment: bytes, *, is_last: bool) -> bytes:
        """Raises InvalidTag."""
        return self.cipher.decrypt(self._nonce(number, is_last), segment, self.header)

    def _nonce(self, number: int, is_last: bool) -> bytes:  # noqa: FBT001 - private, and named at each call
        return self.nonce_prefix + _REST_OF_NONCE.pack(number, is_last)


def encrypt(source: BinaryIO, target: BinaryIO, passphrase: str) -> None:
    """Write the encrypted content of `source` to `target`. Raises BackupError if the passphrase is
    too short or too long."""
    if not MIN_PASSPHRASE_LENGTH <= len(passphrase) <= MAX_PASSPHRASE_LENGTH:
        raise BackupError(
            f"The passphrase must have between {MIN_PASSPHRASE_LENGTH} and {MAX_PASSPHRASE_LENGTH} "
            "characters. Nothing was written."
        )
    salt, prefix = secrets.token_bytes(16), secrets.token_bytes(7)
    header = MAGIC + _PARAMETERS.pack(_VERSION, LOG_COST, _BLOCK_SIZE, _PARALLELISM, salt, prefix)
    segments = _Segments(_derive_cipher(passphrase, salt, LOG_COST), prefix, header)
    target.write(header)
    target.writelines(
        segments.encrypt(number, segment, is_last=is_last)
        for number, (segment, is_last) in enumerate(_split(source, SEGMENT_BYTES))
    )


def decrypt(source: BinaryIO, target: BinaryIO, passphrase: str) -> None:
    """Write the decrypted content of `source`, whose MAGIC has been read, to `target`, which must
    be thrown away if this raises BackupError: only then is it known that something is missing."""
    parameters = read_exactly(source, _PARAMETERS.size)
    if len(parameters) < _PARAMETERS.size:
        raise BackupError("The backup was cut off.")
    version, log_cost, block_size, parallelism, salt, prefix = _PARAMETERS.unpack(parameters)
    if version != _VERSION:
        raise BackupError("The backup was made by a newer version of Hourpass. Use that one.")
    is_bounded = _MIN_LOG_COST <= log_cost <= _MAX_LOG_COST
    if not is_bounded or (block_size, parallelism) != (_BLOCK_SIZE, _PARALLELISM):
        raise BackupError("The header of the backup was changed.")
    if len(passphrase) > MAX_PASSPHRASE_LENGTH:
        raise BackupError("The passphrase is wrong: none is that long.")
    cipher = _derive_cipher(passphrase, salt, log_cost)
    segments = _Segments(cipher, prefix, MAGIC + parameters)
    for number, (segment, is_last) in enumerate(_split(source, SEGMENT_BYTES + TAG_BYTES)):
        try:
            target.write(segments.decrypt(number, segment, is_last=is_last))
        except InvalidTag:
            if number == 0:
                raise BackupError(
                    "The passphrase is wrong, or the backup was changed or cut off."
                ) from None
            raise BackupError(
                f"The backup was changed or cut off, {number * SEGMENT_BYTES:,} bytes after its "
                "beginning or later."
            ) from None


def read_exactly(source: BinaryIO, size: int) -> bytes:
    """Fewer bytes only at the end. A pipe may return fewer at each read."""
    content = source.read(size)
    while 0 < len(content) < size and (more := source.read(size - len(content))):
        content += more
    return content


def _split(source: BinaryIO, size: int) -> Iterator[tuple[bytes, bool]]:
    """Segments, and whether each is the last one. The last one may be shorter, and only that of an
    empty file is empty."""
    segment = read_exactly(source, size)
    while following := read_exactly(source, size) if len(segment) == size else b"":
        yield segment, False
        segment = following
    yield segment, True


def _derive_cipher(passphrase: str, salt: bytes, log_cost: int) -> AESGCM:
    # Normalized, because keyboards differ in how they compose letters.
    secret = unicodedata.normalize("NFC", passphrase).encode()
    kdf = Scrypt(salt, 32, n=2**log_cost, r=_BLOCK_SIZE, p=_PARALLELISM)
    return AESGCM(kdf.derive(secret))
