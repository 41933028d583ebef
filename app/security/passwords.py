"""Hashes and verifies passwords off the event loop, and rejects weak new passwords.

Does not know users. New hashes are Argon2id at OWASP's parameters. Imported hashes of other kinds
verify as well, and `needs_rehash` tells which ones to replace at the next login.
"""

import asyncio
import base64
import hmac
import os
import re
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from threading import Lock, Semaphore, get_native_id
from time import perf_counter
from timeit import repeat
from typing import Annotated, ParamSpec, TypeVar

from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from passlib.context import CryptContext
from pydantic import AfterValidator, Field, SecretStr
from pydantic_core import PydanticCustomError

from app.errors import InvalidRequestError, UnavailableError
from app.security import hash_costs, imported_hashes
from app.security.hashing_threads import hashing_threads
from app.settings import Settings

MAX_LENGTH = 128
STRICT_MIN_LENGTH = 8

_ARGON2 = "$argon2"
_ARGON2ID = re.compile(
    r"\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)"
)

P = ParamSpec("P")
Result = TypeVar("Result")


def _check_password(password: SecretStr) -> SecretStr:
    text = password.get_secret_value()
    # The message of Field(min_length=…) for a secret counts items, not characters.
    if not text:
        raise PydanticCustomError("password", "Must not be empty")
    if len(text) > MAX_LENGTH:
        raise PydanticCustomError("password", f"Must have at most {MAX_LENGTH} characters")
    if "\0" in text:  # bcrypt and C libraries ignore what follows
        raise PydanticCustomError("password", "Must not contain a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PydanticCustomError("password", "Must be valid Unicode")
    return password


Password = Annotated[
    SecretStr,
    Field(json_schema_extra={"minLength": 1, "maxLength": MAX_LENGTH}),
    AfterValidator(_check_password),
]


class HashingOverloadedError(UnavailableError):
    """HASHING_QUEUE passwords are already waiting to be hashed."""

    message = "Too many logins at once, try again shortly"
    limit = "hashing_queue"


class Passwords:
    """One per process. It has its own threads, at a lower priority, so that a burst of logins slows
    down neither the default thread pool nor the event loop, which checks tokens."""

    def __init__(self, settings: Settings) -> None:
        self._context = CryptContext(
            schemes=["argon2", *imported_hashes.SCHEMES],
            deprecated="auto",
            argon2__memory_cost=settings.argon2_memory_kib,
            argon2__time_cost=settings.argon2_passes,
            argon2__parallelism=1,
        )
        self.threads = threads = hashing_threads(settings)
        self._by_openssl = _openssl_is_faster()
        self._pool = ThreadPoolExecutor(threads, "hashing", initializer=_lower_priority)
        self._places = threads + settings.hashing_queue
        self._capacity = Semaphore(self._places)
        self.load = HashingLoad(threads, settings.hashing_queue)
        self._strict = settings.strict_passwords
        memory, passes = settings.argon2_memory_kib, settings.argon2_passes
        self._nominal_seconds = hash_costs.argon2(memory, passes).nominal_seconds
        self._parameters = f"$argon2id$v=19$m={memory},t={passes},p=1$"
        # Verified for unknown users, so that they take the same time as known ones. No password has
        # this hash. It is random, because hashing at start would allocate memory that stays
        # allocated.
        salt, digest = _encode(os.urandom(16)), _encode(os.urandom(32))
        self._dummy_hash = f"{self._parameters}{salt}${digest}"

    def validate_new(self, password: str, *personal: str | None, field: str = "password") -> None:
        """Raise InvalidRequestError if the policy rejects a new password. It names the broken rule.

        `personal` are words that an attacker tries first, such as the username (SP 800-63B-4,
        3.1.1.2).
        """
        if not self._strict:
            return
        password = _normalize(password)
        if len(password) < STRICT_MIN_LENGTH:
            rule = f"Must have at least {STRICT_MIN_LENGTH} characters"
        elif password.casefold() in _common_passwords():
            rule = "Must not be one of the commonly used passwords"
        elif password.casefold() in {_normalize(word).casefold() for word in personal if word}:
            rule = "Must not be the username or the e-mail address"
        else:
            return
        raise InvalidRequestError.for_field(field, rule)

    def require_capacity(self) -> None:
        """Raises HashingOverloadedError. Saves callers the work that they do before hashing."""
        if not self._capacity.acquire(blocking=False):
            raise HashingOverloadedError
        self._capacity.release()

    async def hash(self, password: str) -> str:
        """Raises HashingOverloadedError."""
        return await self._run(1, self._context.hash, _normalize(password))

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Whether the password matches the hash. Without a hash, returns False in the same time.

        An imported hash takes as many places in the queue as hashes of ours would take its time.
        Raises HashingOverloadedError.
        """
        places = self._places_for(password_hash) if password_hash else 1
        return await self._run(places, self._verify_spellings, password, password_hash)

    def can_verify(self, password_hash: str) -> bool:
        """Whether any password can match the hash. If not, the account was imported with a hash of
        an unsupported kind, or it has no password."""
        return self._is_current(password_hash) or imported_hashes.can_verify(
            self._context, password_hash
        )

    def needs_rehash(self, password_hash: str) -> bool:
        """Whether the hash has another algorithm or other parameters than hash() uses."""
        if self._is_current(password_hash):
            return False
        if not password_hash.startswith(_ARGON2):
            return True
        return bool(self._context.needs_update(password_hash))

    def _places_for(self, password_hash: str) -> int:
        """At most all places, so that an idle worker verifies every hash."""
        if self._is_current(password_hash):
            return 1
        cost = hash_costs.cost_of(password_hash)
        if cost is None:
            return 1  # an unsupported kind: a hash of ours is computed instead
        return max(1, min(self._places, round(cost.nominal_seconds / self._nominal_seconds)))

    def _is_current(self, password_hash: str) -> bool:
        """Whether hash() would use the same parameters. True for nearly every hash, and faster than
        parsing it."""
        has_parameters = password_hash.startswith(self._parameters)
        return has_parameters and len(password_hash) == len(self._dummy_hash)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _verify_spellings(self, password: str, password_hash: str | None) -> bool:
        """Our hashes are of the normalized password. Other systems hash it as it was typed.

        If the spellings differ, a wrong password takes twice as long, for unknown users as well.
        """
        spellings = list(dict.fromkeys((_normalize(password), password)))
        if password_hash is not None and not password_hash.startswith(_ARGON2):
            spellings.reverse()
        return any(self._verify_or_dummy(spelling, password_hash) for spelling in spellings)

    def _verify_or_dummy(self, password: str, password_hash: str | None) -> bool:
        if password_hash is not None:
            try:
                return self._verify_hash(password, password_hash)
            except ValueError:
                pass  # an account without a password, or with a hash of an unsupported kind
        self._verify_hash(password, self._dummy_hash)
        return False

    def _verify_hash(self, password: str, password_hash: str) -> bool:
        if self._by_openssl and (computation := _argon2id(password_hash)):
            kdf, digest = computation
            return hmac.compare_digest(kdf.derive(password.encode()), digest)
        if not password_hash.startswith(_ARGON2):
            return imported_hashes.verify(self._context, password, password_hash)
        return bool(self._context.verify(password, password_hash))

    async def _run(
        self, places: int, work: Callable[P, Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        self._take(places)
        future = self._pool.submit(self.load.measured(places, partial(work, *args, **kwargs)))

        def finish(_: object) -> None:
            """Called when the thread is free, not when the caller stops waiting."""
            self._capacity.release(places)
            self.load.finish(places)

        future.add_done_callback(finish)
        return await asyncio.wrap_future(future)

    def _take(self, places: int) -> None:
        """All or none. Only the event loop takes places. Raises HashingOverloadedError."""
        for taken in range(places):
            if not self._capacity.acquire(blocking=False):
                if taken:
                    self._capacity.release(taken)
                raise HashingOverloadedError


class HashingLoad:
    """Counts the passwords that are hashed, and the time that this takes. Plain numbers, which the
    hashing threads change under a lock."""

    def __init__(self, threads: int, max_waiting: int) -> None:
        self.threads = threads
        self.max_waiting = max_waiting
        self.places = 0  # taken by passwords that wait or are being hashed
        self.number = 0
        self.seconds = 0.0
        self.waited_seconds = 0.0
        self._lock = Lock()

    @property
    def waiting(self) -> int:
        return max(0, self.places - self.threads)

    def measured(self, places: int, work: Callable[[], Result]) -> Callable[[], Result]:
        """Returns the work with a measurement of its time. When it is done or canceled, the caller
        calls finish()."""
        submitted_at = perf_counter()
        with self._lock:
            self.places += places

        def run() -> Result:
            began_at = perf_counter()
            try:
                return work()
            finally:
                ended_at = perf_counter()
                with self._lock:
                    self.number += 1
                    self.seconds += ended_at - began_at
                    self.waited_seconds += began_at - submitted_at

        return run

    def finish(self, places: int) -> None:
        with self._lock:
            self.places -= places


@cache
def _openssl_is_faster() -> bool:
    """Whether OpenSSL computes Argon2id faster than argon2-cffi's libargon2. It is 10 % faster than
    the wheel's, which is built for any CPU, but not than one built for this CPU (`make native`)."""

    def seconds(computation: Callable[[], object]) -> float:
        return min(repeat(computation, number=1, repeat=5))

    def openssl() -> bytes:
        kdf = Argon2id(salt=bytes(16), length=32, iterations=1, lanes=1, memory_cost=1024)
        return kdf.derive(b"password")

    def libargon2() -> bytes:
        return hash_secret_raw(b"password", bytes(16), 1, 1024, 1, 32, Type.ID)

    try:
        return seconds(openssl) < seconds(libargon2)
    except UnsupportedAlgorithm:  # OpenSSL older than 3.2
        return False


def _argon2id(password_hash: str) -> tuple[Argon2id, bytes] | None:
    """OpenSSL's function with the parameters of this hash, and the expected digest. None if OpenSSL
    cannot verify this kind of hash."""
    match = _ARGON2ID.fullmatch(password_hash)
    if match is None:
        return None
    memory, passes, lanes, salt, digest = match.groups()
    expected = _decode(digest)
    try:
        kdf = Argon2id(
            salt=_decode(salt),
            length=len(expected),
            iterations=int(passes),
            lanes=int(lanes),
            memory_cost=int(memory),
        )
    except ValueError:  # parameters that OpenSSL rejects
        return None
    return kdf, expected


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _lower_priority() -> None:
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, get_native_id(), 19)


def _normalize(password: str) -> str:
    """NFKC, so that a password matches whichever keyboard it is typed on (SP 800-63B-4,
    3.1.1.2)."""
    return unicodedata.normalize("NFKC", password)


@cache
def _common_passwords() -> frozenset[str]:
    from zxcvbn.frequency_lists import FREQUENCY_LISTS  # large, and only needed if strict

    return frozenset(
        word for word in FREQUENCY_LISTS["passwords"] if len(word) >= STRICT_MIN_LENGTH
    )
