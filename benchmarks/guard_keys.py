"""Measures what API keys cost a guard.

    python -m benchmarks.guard_keys

Takes half a minute. The issuer of hourpass.testing runs in the same process, so the figures include
its signatures and the thread of an exchange, but no network.
"""

import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from statistics import median, quantiles
from time import perf_counter, sleep

from benchmarks.bench import Row
from benchmarks.run import print_table, processor
from hourpass import Guard, InvalidTokenError, clock
from hourpass.guard.key_exchange import MAX_EXCHANGES
from hourpass.testing import Issuer

BATCH, BATCHES = 500, 100
FIRST_SIGHTS = 100
KEYS = 1_000
REVOCATIONS = 30
CALLERS = 100


def main() -> None:
    issuer = Issuer()
    keys = [issuer.api_key() for _ in range(KEYS)]  # before a guard listens, which takes longer
    timed, guard = Guard("https://hourpass.example"), Guard("https://hourpass.example")
    issuer.attach(timed)
    issuer.attach(guard)
    table = [*known(issuer, timed), *first_sight(issuer, guard)]
    table += [*revoked(issuer, guard), *all_at_once(issuer, guard, keys)]
    for used in (timed, guard):
        used.close()
    issuer.close()
    print_table(table)
    print(f"\n{datetime.now(UTC):%F}, {processor()}, Python {platform.python_version()}")


def known(issuer: Issuer, guard: Guard) -> Iterator[Row]:
    """The fastest of many batches, because other load on the machine only adds time."""
    token, key = issuer.token("predict"), issuer.api_key("predict")
    guard.check(token)
    guard.check(key)
    for reader in (guard, guard._checker, guard._keys):  # noqa: SLF001 - the issuer's clock is slower
        reader._clock = clock  # noqa: SLF001 - as above
    of_token, of_key = (
        min(microseconds(guard.check, copies(credential)) for _ in range(BATCHES))
        for credential in (token, key)
    )
    yield Row("guard.check, known key", f"{of_key:.2f} µs", "2 µs", of_key / 2, at_most=1)
    yield Row(
        "guard.check, known key",
        f"{of_key:.2f} µs",
        f"known token: {of_token:.2f} µs",
        of_key / of_token,
        at_most=1.3,
    )


def copies(credential: str) -> list[str]:
    """Copies whose hash is not cached, like a key that arrives with a request."""
    return [credential.encode().decode() for _ in range(BATCH)]


def microseconds(check: Callable[[str], object], credentials: Sequence[str]) -> float:
    started_at = perf_counter()
    for credential in credentials:
        check(credential)
    return (perf_counter() - started_at) / len(credentials) * 1e6


def first_sight(issuer: Issuer, guard: Guard) -> Iterator[Row]:
    guard.start()
    keys = [issuer.api_key() for _ in range(FIRST_SIGHTS)]
    taken = [microseconds(guard.check, [key]) / 1_000 for key in keys]
    value = median(taken)
    yield Row("first sight of a key, median", f"{value:.1f} ms", "5 ms", value / 5, at_most=1)


def revoked(issuer: Issuer, guard: Guard) -> Iterator[Row]:
    """The issuer returns when the guard has read the feed, so this measures the next exchange."""
    taken = []
    for _ in range(REVOCATIONS):
        key = issuer.api_key()
        guard.check(key)
        started_at = perf_counter()
        issuer.revoke(key)
        while is_accepted(guard, key):
            sleep(0.0005)
        taken.append((perf_counter() - started_at) * 1_000)
    p99 = quantiles(taken, n=100)[98]
    yield Row("from a key's revocation to its refusal, p99", f"{p99:.1f} ms", "1000 ms", p99 / 1e3)


def is_accepted(guard: Guard, key: str) -> bool:
    try:
        guard.check(key)
    except InvalidTokenError:
        return False
    return True


def all_at_once(issuer: Issuer, guard: Guard, keys: Sequence[str]) -> Iterator[Row]:
    for key in keys:
        guard.check(key)
    with ThreadPoolExecutor(CALLERS) as callers:
        for event, figure in (
            (issuer.revoke_key, f"after a revoked signing key, {MAX_EXCHANGES} at a time"),
            (lambda: issuer.advance_time(timedelta(minutes=49)), "over one renewal"),
        ):
            event()
            before = issuer.asked["/token"]
            started_at = perf_counter()
            slowest = max(callers.map(lambda key: microseconds(guard.check, [key]), keys)) / 1_000
            while issuer.asked["/token"] < before + KEYS and perf_counter() < started_at + 30:
                for key in keys:
                    guard.check(key)  # a renewal that found 50 others starts at the next request
            lasted = perf_counter() - started_at
            exchanges = issuer.asked["/token"] - before
            yield Row(
                f"{KEYS:,} keys {figure}: slowest check",
                f"{slowest:.0f} ms",
                f"{exchanges:,} exchanges in {lasted:.1f} s",
                slowest / 3_000,
                at_most=1,
            )


if __name__ == "__main__":
    main()
