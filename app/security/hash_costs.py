"""What it costs to verify a password hash: read from its parameters, without computing it.

Does not say whether a hash can be verified (imported_hashes.py).
"""

import hashlib
import re
import time
from collections.abc import Callable
from functools import cache
from timeit import repeat
from typing import NamedTuple

import bcrypt
from argon2.low_level import Type, hash_secret_raw

MAX_BYTES = 256 * 2**20  # of memory, for one hash


class Cost(NamedTuple):
    """`units` are KiB times passes for Argon2, rounds for bcrypt and PBKDF2, and blocks for
    scrypt."""

    algorithm: str
    units: int
    memory: int  # in bytes

    @property
    def nominal_seconds(self) -> float:
        """On the machine of docs/performance.md. Only compare them with each other."""
        return self.units * _NOMINAL_SECONDS[self.algorithm]

    def seconds(self) -> float:
        """On this machine. Measures each algorithm once, which takes up to a tenth of a second."""
        return self.units * _seconds_per_unit(self.algorithm)


def argon2(memory_kib: int, passes: int) -> Cost:
    return Cost("argon2", memory_kib * passes, memory_kib * 1024)


def cost_of(password_hash: str) -> Cost | None:
    """None for a hash of an unknown kind."""
    for pattern, read in _READERS:
        if match := pattern.fullmatch(password_hash):
            return read(match)
    return None


_NOMINAL_SECONDS = {
    "argon2": 580e-9,
    "bcrypt": 58e-6,
    "pbkdf2 sha1": 170e-9,
    "pbkdf2 sha256": 230e-9,
    "pbkdf2 sha512": 460e-9,
    "scrypt": 330e-9,
}


@cache
def _seconds_per_unit(algorithm: str) -> float:
    units, compute = _SAMPLES[algorithm]
    # CPU time: the machine may be busy with other work.
    return min(repeat(compute, number=1, repeat=3, timer=time.thread_time)) / units


def _pbkdf2_sample(digest: str) -> tuple[int, Callable[[], object]]:
    rounds = 40_000
    return rounds, lambda: hashlib.pbkdf2_hmac(digest, b"password", bytes(16), rounds)


# Large enough for the memory to count as in a real hash.
_SAMPLES: dict[str, tuple[int, Callable[[], object]]] = {
    "argon2": (
        2 * 19456,
        lambda: hash_secret_raw(b"password", bytes(16), 2, 19456, 1, 32, Type.ID),
    ),
    "bcrypt": (2**8, lambda: bcrypt.hashpw(b"password", bcrypt.gensalt(8))),
    "pbkdf2 sha1": _pbkdf2_sample("sha1"),
    "pbkdf2 sha256": _pbkdf2_sample("sha256"),
    "pbkdf2 sha512": _pbkdf2_sample("sha512"),
    "scrypt": (
        8 * 2**13,
        lambda: hashlib.scrypt(b"password", salt=bytes(16), n=2**13, r=8, p=1, maxmem=2**24),
    ),
}


def _read_argon2(match: re.Match[str]) -> Cost:
    return argon2(int(match["memory"]), int(match["passes"]))


def _read_bcrypt(match: re.Match[str]) -> Cost:
    return Cost("bcrypt", 2 ** int(match["rounds"]), 0)


def _read_pbkdf2(match: re.Match[str]) -> Cost:
    digest = match["digest"] or "sha1"
    # Each block of a longer digest costs all rounds again.
    length = len(match["value"].rstrip("=")) * 3 // 4
    blocks = -(-length // hashlib.new(digest, usedforsecurity=False).digest_size)
    return Cost(f"pbkdf2 {digest}", int(match["rounds"]) * blocks, 0)


def _read_scrypt(match: re.Match[str]) -> Cost:
    return _scrypt(int(match["n"]), int(match["r"]), int(match["p"]))


def _read_scrypt_by_logarithm(match: re.Match[str]) -> Cost:
    return _scrypt(2 ** int(match["ln"]), int(match["r"]), int(match["p"] or 1))


def _scrypt(n: int, r: int, p: int) -> Cost:
    return Cost("scrypt", n * r * p, 128 * r * (n + p))


_READERS = tuple(
    (re.compile(pattern, re.DOTALL), read)
    for pattern, read in (
        (
            r"(argon2)?\$argon2(id|i|d)\$(v=\d+\$)?m=(?P<memory>\d{1,10}),t=(?P<passes>\d{1,10}),.*",
            _read_argon2,
        ),
        (
            r"(bcrypt\$|bcrypt_sha256\$)?\$2[abxy]?\$(?P<rounds>\d\d)\$.*",
            _read_bcrypt,
        ),
        (
            r"\$bcrypt-sha256\$(v=2,t=2[aby],r=|2[aby],)(?P<rounds>\d\d?)\$.*",
            _read_bcrypt,
        ),
        (
            r"\$pbkdf2(-(?P<digest>sha256|sha512))?\$(?P<rounds>\d{1,10})\$[^$]*\$(?P<value>[^$]*)",
            _read_pbkdf2,
        ),
        (
            r"pbkdf2_(?P<digest>sha1|sha256)\$(?P<rounds>\d{1,10})\$[^$]*\$(?P<value>[^$]*)",
            _read_pbkdf2,
        ),
        (
            r"scrypt\$(?P<n>\d{1,10})\$[^$]*\$(?P<r>\d{1,10})\$(?P<p>\d{1,10})\$.*",
            _read_scrypt,
        ),
        (
            r"\$(firebase-)?scrypt\$ln=(?P<ln>\d\d?),r=(?P<r>\d{1,10})(,p=(?P<p>\d{1,10}))?\$.*",
            _read_scrypt_by_logarithm,
        ),
    )
)
