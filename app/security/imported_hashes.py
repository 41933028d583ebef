"""Verifies password hashes that other systems made, until the next login replaces them."""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass

from passlib.context import CryptContext

# Besides Django's scrypt, which passlib does not know.
SCHEMES = (
    "bcrypt",
    "bcrypt_sha256",
    "pbkdf2_sha256",
    "pbkdf2_sha512",
    "scrypt",
    "django_argon2",
    "django_bcrypt",
    "django_bcrypt_sha256",
    "django_pbkdf2_sha256",
)
MAX_SCRYPT_BYTES = 256 * 2**20

_BCRYPT = re.compile(r"(bcrypt\$)?\$2[aby]?\$\d\d\$[./A-Za-z0-9]{53}")  # $2x$ was faulty
_BCRYPT_BYTES = 72
_DJANGO_SCRYPT = re.compile(
    r"scrypt\$(?P<n>\d{1,9})\$(?P<salt>[^$]+)\$(?P<r>\d{1,4})\$(?P<p>\d{1,4})\$(?P<digest>[\w+/]+=*)"
)


@dataclass(frozen=True, slots=True)
class _Scrypt:
    n: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    def matches(self, password: str) -> bool:
        memory = 128 * self.r * (self.n + self.p + 2)
        computed = hashlib.scrypt(
            password.encode(),
            salt=self.salt,
            n=self.n,
            r=self.r,
            p=self.p,
            maxmem=2 * memory,
            dklen=len(self.digest),
        )
        return hmac.compare_digest(computed, self.digest)


def verify(context: CryptContext, password: str, password_hash: str) -> bool:
    """Raises ValueError if `can_verify` is False, and for some damaged hashes."""
    if scrypt := _django_scrypt(password_hash):
        return scrypt.matches(password)
    if _BCRYPT.fullmatch(password_hash):
        # All that the other system has hashed: bcrypt ignores what follows. The next login hashes
        # the whole password with Argon2id.
        return bool(context.verify(password.encode()[:_BCRYPT_BYTES], password_hash))
    return bool(context.verify(password, password_hash))


def can_verify(context: CryptContext, password_hash: str) -> bool:
    """Whether this is a hash of a known kind, with parameters that can be computed."""
    if _django_scrypt(password_hash) is not None:
        return True
    if password_hash.removeprefix("bcrypt$").startswith("$2"):
        return _BCRYPT.fullmatch(password_hash) is not None
    try:
        context.needs_update(password_hash)  # parses it
    except (ValueError, TypeError):
        return False
    return True


def _django_scrypt(password_hash: str) -> _Scrypt | None:
    match = _DJANGO_SCRYPT.fullmatch(password_hash)
    if match is None:
        return None
    n, r, p = (int(match[name]) for name in ("n", "r", "p"))
    try:
        digest = base64.b64decode(match["digest"], validate=True)
    except ValueError:
        return None
    if n < 2 or n & (n - 1) or not r * p or not digest or 128 * n * r * p > MAX_SCRYPT_BYTES:
        return None
    return _Scrypt(n, r, p, match["salt"].encode(), digest)
