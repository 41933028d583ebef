"""Verifies password hashes of other systems, until the next login replaces them."""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Literal, Protocol

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from passlib.context import CryptContext

from app.security.hash_costs import MAX_BYTES

# Besides PBKDF2, Django's scrypt and Firebase's, which are computed here: passlib does not know the
# latter two, nor digests of PBKDF2 that are longer or shorter than the hash function's.
SCHEMES = ("bcrypt", "bcrypt_sha256", "scrypt", "django_bcrypt_sha256", "django_argon2")

Digest = Literal["sha1", "sha256", "sha512"]

_MAX_ROUNDS = 2**31 - 1  # OpenSSL's
_BCRYPT = re.compile(r"(bcrypt\$)?\$2[aby]?\$\d\d\$[./A-Za-z0-9]{53}")  # $2x$ was faulty
_BCRYPT_BYTES = 72
_FIREBASE_BYTES = 32  # of the key stream

_PBKDF2 = re.compile(
    r"\$pbkdf2(-(?P<digest>sha256|sha512))?\$(?P<rounds>[1-9]\d{0,9})"
    r"\$(?P<salt>[A-Za-z0-9./]*)\$(?P<value>[A-Za-z0-9./]+)"
)
_DJANGO_PBKDF2 = re.compile(
    r"pbkdf2_(?P<digest>sha1|sha256)\$(?P<rounds>[1-9]\d{0,9})"
    r"\$(?P<salt>[^$]+)\$(?P<value>[A-Za-z0-9+/]+=*)"
)
_DJANGO_SCRYPT = re.compile(
    r"scrypt\$(?P<n>\d{1,9})\$(?P<salt>[^$]+)\$(?P<r>\d{1,4})\$(?P<p>\d{1,4})"
    r"\$(?P<value>[A-Za-z0-9+/]+=*)"
)
_FIREBASE = re.compile(
    r"\$firebase-scrypt\$ln=(?P<ln>\d\d?),r=(?P<r>\d{1,4})"
    r"\$(?P<salt>[A-Za-z0-9./]*)\$(?P<value>[A-Za-z0-9./]{43})"
)


class _Computation(Protocol):
    def matches(self, password: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Pbkdf2:
    digest: str
    rounds: int
    salt: bytes
    value: bytes

    def matches(self, password: str) -> bool:
        computed = hashlib.pbkdf2_hmac(
            self.digest, password.encode(), self.salt, self.rounds, len(self.value)
        )
        return hmac.compare_digest(computed, self.value)


@dataclass(frozen=True, slots=True)
class _Scrypt:
    n: int
    r: int
    p: int
    salt: bytes
    value: bytes

    def matches(self, password: str) -> bool:
        return hmac.compare_digest(self.derive(password, len(self.value)), self.value)

    def derive(self, password: str, length: int) -> bytes:
        memory = 128 * self.r * (self.n + self.p + 2)
        return hashlib.scrypt(
            password.encode(),
            salt=self.salt,
            n=self.n,
            r=self.r,
            p=self.p,
            maxmem=2 * memory,
            dklen=length,
        )


@dataclass(frozen=True, slots=True)
class _FirebaseScrypt(_Scrypt):
    def matches(self, password: str) -> bool:
        """`value` is the digest of the key stream (see firebase_scrypt)."""
        encryptor = Cipher(AES(self.derive(password, 32)), CTR(bytes(16))).encryptor()
        stream = encryptor.update(bytes(_FIREBASE_BYTES))
        return hmac.compare_digest(hashlib.sha256(stream).digest(), self.value)


def pbkdf2(digest: Digest, rounds: int, salt: bytes, value: bytes) -> str:
    """The hash in the format of passlib, for a value of any length."""
    name = "pbkdf2" if digest == "sha1" else f"pbkdf2-{digest}"
    return f"${name}${rounds}${_encode(salt)}${_encode(value)}"


def firebase_scrypt(  # noqa: PLR0913, PLR0917 - the parameters of the project and of the user
    value: bytes, salt: bytes, signer_key: bytes, separator: bytes, rounds: int, mem_cost: int
) -> str | None:
    """Firebase's modified scrypt, in a format of ours that does not need the signer key. None if
    the value is too short.

    Firebase encrypts the signer key with AES-256-CTR under a key from scrypt and the password. CTR
    adds a key stream to it, so the stored value and the signer key give the key stream, which only
    the password can give again. Its digest reveals neither the signer key nor the value.
    """
    if min(len(value), len(signer_key)) < _FIREBASE_BYTES:
        return None
    stream = bytes(a ^ b for a, b in zip(value, signer_key[:_FIREBASE_BYTES], strict=False))
    digest = hashlib.sha256(stream).digest()
    parameters = f"ln={mem_cost},r={rounds}"
    return f"$firebase-scrypt${parameters}${_encode(salt + separator)}${_encode(digest)}"


def verify(context: CryptContext, password: str, password_hash: str) -> bool:
    """Raises ValueError if `can_verify` is False, and for some damaged hashes."""
    if computation := _parse(password_hash):
        return computation.matches(password)
    if _BCRYPT.fullmatch(password_hash):
        # The other system has hashed no more bytes: bcrypt ignores the others. The next login
        # hashes the whole password with Argon2id.
        plain = password_hash.removeprefix("bcrypt$")
        return bool(context.verify(password.encode()[:_BCRYPT_BYTES], plain))
    return bool(context.verify(password, password_hash))


def can_verify(context: CryptContext, password_hash: str) -> bool:
    """Whether this is a hash of a known kind, with parameters that can be computed."""
    if _parse(password_hash) is not None:
        return True
    if password_hash.removeprefix("bcrypt$").startswith("$2"):
        return _BCRYPT.fullmatch(password_hash) is not None
    try:
        context.needs_update(password_hash)  # parses it
    except (ValueError, TypeError):
        return False
    return True


def _parse(password_hash: str) -> _Computation | None:
    """None if it is a hash of another kind, or one that cannot be computed."""
    try:
        if match := _PBKDF2.fullmatch(password_hash):
            salt, value = _decode(match["salt"]), _decode(match["value"])
            return _pbkdf2_of(match, salt, value)
        if match := _DJANGO_PBKDF2.fullmatch(password_hash):
            value = base64.b64decode(match["value"], validate=True)
            return _pbkdf2_of(match, match["salt"].encode(), value)
        if match := _DJANGO_SCRYPT.fullmatch(password_hash):
            value = base64.b64decode(match["value"], validate=True)
            n, r, p = (int(match[name]) for name in ("n", "r", "p"))
            return _computable(_Scrypt(n, r, p, match["salt"].encode(), value))
        if match := _FIREBASE.fullmatch(password_hash):
            salt, value = _decode(match["salt"]), _decode(match["value"])
            n, r = 2 ** int(match["ln"]), int(match["r"])
            return _computable(_FirebaseScrypt(n, r, 1, salt, value))
    except ValueError:  # damaged base64
        pass
    return None


def _pbkdf2_of(match: re.Match[str], salt: bytes, value: bytes) -> _Pbkdf2 | None:
    rounds = int(match["rounds"])
    if rounds > _MAX_ROUNDS or not value:
        return None
    return _Pbkdf2(match["digest"] or "sha1", rounds, salt, value)


def _computable(scrypt: _Scrypt) -> _Scrypt | None:
    n, r, p = scrypt.n, scrypt.r, scrypt.p
    is_computable = n >= 2 and n & (n - 1) == 0 and r * p and scrypt.value
    return scrypt if is_computable and 128 * n * r * p <= MAX_BYTES else None


def _encode(value: bytes) -> str:
    """As passlib: base64 with a dot for the plus sign, and without padding."""
    return base64.b64encode(value, b"./").decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), b"./", validate=True)
