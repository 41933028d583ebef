"""The rows of the table of benchmarks.run, in order. Each function starts the servers it needs."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any
from urllib.parse import urlencode

from argon2 import PasswordHasher
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from benchmarks import servers
from benchmarks.bench import Bench, Row, Sample, ratio
from benchmarks.load import Load, post
from benchmarks.parameters import ARGON2_MEMORY_KIB, ARGON2_PASSES, EMAIL, PASSWORD
from benchmarks.population import Population, token_status, verify

DATABASES = ("SQLite", "PostgreSQL")


def validation(bench: Bench) -> Iterator[Row]:
    """200 valid tokens, in the path and in a header. Bare uvicorn has its log off, then on."""
    with ExitStack() as stack:
        bare = stack.enter_context(servers.bare(bench.directory))
        logging = stack.enter_context(servers.bare(bench.directory, access_log=True))
        subjects: list[tuple[str, Callable[[], Sample]]] = []
        for kind in DATABASES:
            people = Population(bench.new_database(kind))
            server = stack.enter_context(servers.hourpass(bench.directory, people.variables))
            for name, request in (("/token_status", token_status), ("/verify", verify)):
                subject = _validations(bench, server, people, request)
                subjects.append((f"{name}, {kind}", subject))
        same_size = [token_status(token) for token in people.tokens(200)]
        ceiling, logged, *taken = bench.by_turns(
            partial(bench.measure, bare, same_size),
            partial(bench.measure, logging, same_size),
            *(subject for _, subject in subjects),
        )
    for (name, _), samples in zip(subjects, taken, strict=True):
        yield _rates(name, samples, "bare uvicorn", ceiling, at_least=0.60)
    for (name, _), samples in zip(subjects, taken, strict=True):
        yield _rates(name, samples, "bare uvicorn with its access log", logged)


def first_seen(bench: Bench) -> Iterator[Row]:
    """Each token once, so that none is cached. Each round has new users too."""
    people = Population(bench.new_database("SQLite"))
    size = bench.number(50_000) // bench.rounds
    users = bench.number(400) // bench.rounds
    batches = [
        people.tokens(size, range(1 + number * users, 1 + (number + 1) * users))
        for number in range(bench.rounds)
    ]
    fresh = iter([[token_status(token) for token in batch] for batch in batches])
    requests = [token_status(token) for token in batches[0]]
    with (
        servers.bare(bench.directory) as bare,
        servers.hourpass(bench.directory, people.variables) as server,
    ):
        ceiling, taken = bench.by_turns(
            lambda: bench.measure(bare, requests, count=size),
            lambda: bench.measure(server, next(fresh), count=size),
        )
    name = (
        f"/token_status, {size * bench.rounds:,} tokens of {users * bench.rounds} users, once each"
    )
    yield _rates(name, taken, "bare uvicorn", ceiling, at_least=0.20)


def logins(bench: Bench) -> Iterator[Row]:
    """16 clients, against the hash alone on as many threads: with argon2-cffi, which is common, and
    with OpenSSL, which the service uses unless argon2-cffi is faster. The second figure is per CPU
    time of the service, because clients and PostgreSQL use the same cores.
    """
    threads = os.cpu_count() or 1

    def alone(verifier: Callable[[], Callable[[], object]]) -> Callable[[], float]:
        arguments = (verifier, threads, 2 * bench.seconds)
        return lambda: bench.generators.apply(hashes_per_second, arguments)

    with ExitStack() as stack:
        hashes: list[Callable[[], Any]] = [alone(argon2_cffi), alone(openssl)]
        subjects: list[Callable[[], Any]] = []
        for kind in DATABASES:
            people = Population(bench.new_database(kind))
            server = stack.enter_context(servers.hourpass(bench.directory, people.variables))
            requests = _logins(bench, server, people, 2 * bench.seconds)
            subjects.append(partial(bench.measure, server, requests, 2))
        by_cffi, by_openssl, *taken = bench.by_turns(*hashes, *subjects)
    for kind, samples in zip(DATABASES, taken, strict=True):
        as_seen = [sample.rate for sample in samples]
        by_cpu = [sample.capacity * threads for sample in samples]
        for figure, rates, name, others, goal in (
            ("logins/s", as_seen, "argon2-cffi", by_cffi, 0.95),
            (f"logins per {threads} CPU seconds", by_cpu, "argon2-cffi", by_cffi, 0.95),
            ("logins/s", as_seen, "OpenSSL's Argon2id", by_openssl, None),
        ):
            yield Row(
                f"{figure}, {kind}",
                f"{median(rates):.1f}",
                f"{name} alone, {threads} threads: {median(others):.1f}/s",
                ratio(rates, others),
                at_least=goal,
            )


def argon2_cffi() -> Callable[[], object]:
    hasher = PasswordHasher(ARGON2_PASSES, ARGON2_MEMORY_KIB, parallelism=1)
    return partial(hasher.verify, hasher.hash(PASSWORD), PASSWORD)


def openssl() -> Callable[[], object]:
    return lambda: Argon2id(
        salt=bytes(16),
        length=32,
        iterations=ARGON2_PASSES,
        lanes=1,
        memory_cost=ARGON2_MEMORY_KIB,
    ).derive(PASSWORD.encode())


def hashes_per_second(
    verifier: Callable[[], Callable[[], object]], threads: int, seconds: float
) -> float:
    verify_once = verifier()
    started_at = perf_counter()

    def verify_on(_: int) -> int:
        number = 0
        while perf_counter() - started_at < seconds:
            verify_once()
            number += 1
        return number

    with ThreadPoolExecutor(threads) as pool:
        number = sum(pool.map(verify_on, range(threads)))
    return number / (perf_counter() - started_at)


def interference(bench: Bench) -> Iterator[Row]:
    """Validations at a steady pace: alone, while eight clients log in without pause, and while they
    do at another service on the same machine. The last case shows what the machine alone causes."""
    people = Population(bench.new_database("SQLite"))
    strangers = Population(bench.new_database("SQLite"))
    with (
        servers.hourpass(bench.directory, people.variables) as server,
        servers.hourpass(bench.directory, strangers.variables) as other,
    ):
        paced = partial(_validations(bench, server, people), 3, per_second=200, connections=8)
        seconds = 3 * bench.seconds + 2

        def beside(busy: servers.Server, those: Population) -> Callable[[], Sample]:
            requests = _logins(bench, busy, those, seconds)
            logging_in = Load(busy.port, requests, connections=8, seconds=seconds)

            def validate() -> Sample:
                with bench.under(logging_in):
                    return paced()

            return validate

        idle, busy, elsewhere = (
            [one.p99_ms for one in taken]
            for taken in bench.by_turns(paced, beside(server, people), beside(other, strangers))
        )
    for against, others in (
        ("without them", idle),
        ("while they log in at another service", elsewhere),
    ):
        yield Row(
            "p99 of 200 validations/s beside 8 clients logging in",
            f"{median(busy):.2f} ms",
            f"{against}: {median(others):.2f} ms",
            ratio(busy, others),
            at_most=1.5,
        )


def scale(bench: Bench) -> Iterator[Row]:
    """A large database against an empty one, on both databases."""
    for kind in DATABASES:
        many = Population(bench.new_database(kind), bench.users, bench.users // 10)
        few = Population(bench.new_database(kind))
        with (
            servers.hourpass(bench.directory, many.variables) as full,
            servers.hourpass(bench.directory, few.variables) as empty,
        ):
            of_full, of_empty = bench.by_turns(
                _validations(bench, full, many), _validations(bench, empty, few)
            )
            rates, empty_rates = bench.by_turns(
                partial(_login_rate, bench, full, many.logins()),
                partial(_login_rate, bench, empty, few.logins()),
            )
        size = f"{bench.users:,} users, {kind}"
        yield _rates(f"/token_status, {size}", of_full, "empty", of_empty, at_least=0.9)
        yield Row(
            f"logins/s, {size}",
            f"{median(rates):.1f}",
            f"empty: {median(empty_rates):.1f}",
            ratio(rates, empty_rates),
            at_least=0.9,
        )


def workers(bench: Bench) -> Iterator[Row]:
    """Two workers against one. The load generator needs a core too, so the figure is the number of
    requests per second of CPU time of the busiest worker."""
    people = Population(bench.new_database("SQLite"))
    with (
        servers.hourpass(bench.directory, people.variables) as single,
        servers.hourpass(bench.directory, people.variables, workers=2) as double,
    ):
        one, two = bench.by_turns(
            *(
                partial(_validations(bench, server, people), connections=64)
                for server in (single, double)
            )
        )
    yield Row(
        "two workers, requests per CPU second of the busier",
        f"{_median(two, 'capacity'):,.0f} ({_median(two, 'rate'):,.0f}/s seen)",
        f"one worker: {_median(one, 'capacity'):,.0f} ({_median(one, 'rate'):,.0f}/s seen)",
        ratio([sample.capacity for sample in two], [sample.capacity for sample in one]),
        at_least=1.7,
    )


def memory(bench: Bench) -> Iterator[Row]:
    """Idle with default settings. Then, with cheap hashing, after many logins, and after checks of
    which a fifth are of more tokens than the cache holds."""
    people = Population(bench.new_database("SQLite"))
    with servers.hourpass(bench.directory, people.variables) as server:
        idle = server.memory_bytes() / 1e6
    people = Population(bench.new_database("SQLite"), memory_kib=8)
    tokens = [*people.tokens(bench.number(20_000)), *people.tokens(200) * bench.number(400)]
    validations = [token_status(token) for token in tokens]
    log_ins = people.logins(bench.number(1000))
    taken = []
    with servers.hourpass(bench.directory, people.variables) as server:
        for _ in range(2):
            bench.measure(server, validations, count=len(validations))
            bench.measure(server, log_ins, count=len(log_ins))
            taken.append(server.memory_bytes() / 1e6)
    half, whole = taken
    yield Row("memory of a worker, idle", f"{idle:.0f} MB", "120 MB", idle / 120, at_most=1)
    yield Row(
        f"memory after {2 * len(validations):,} validations, {2 * len(log_ins):,} logins",
        f"{whole:.0f} MB",
        f"after half of them: {half:.0f} MB",
        whole / half,
        at_most=1.05,
    )


def start(bench: Bench) -> Iterator[Row]:
    """The time until /readyz responds, on a migrated database."""
    people = Population(bench.new_database("SQLite"))

    def ours() -> float:
        started_at = perf_counter()
        with servers.hourpass(bench.directory, people.variables):
            return perf_counter() - started_at

    def bare() -> float:
        started_at = perf_counter()
        with servers.bare(bench.directory):
            return perf_counter() - started_at

    seconds, ceiling = bench.by_turns(ours, bare)
    yield Row(
        "from `hourpass serve` to ready",
        f"{median(seconds):.2f} s",
        f"1.5 s (bare uvicorn: {median(ceiling):.2f} s)",
        median(seconds) / 1.5,
        at_most=1,
    )


def flood(bench: Bench) -> Iterator[Row]:
    """Forged tokens without pause: the effect on valid tokens, the cache and memory."""
    people = Population(bench.new_database("SQLite"))
    requests = [token_status(token) for token in people.tokens(10_000)]
    forged = [token_status(forge(token)) for token in people.tokens(bench.number(50_000))]
    with servers.hourpass(bench.directory, people.variables) as server:
        all_of_them = partial(bench.measure, server, requests, count=len(requests))
        paced = partial(bench.measure, server, requests, per_second=1000, connections=8)
        for _ in range(2):  # to learn of the users, then of the tokens
            all_of_them()
        bytes_before = server.memory_bytes()
        before, beside, after = [], [], []
        for _ in range(bench.rounds):
            before.append(all_of_them())
            with bench.under(Load(server.port, forged, connections=8, seconds=bench.seconds + 2)):
                beside.append(paced())
            after.append(all_of_them())
        bytes_after = server.memory_bytes()
    rates = [sample.rate for sample in beside]
    yield Row(
        "1,000 good tokens/s beside a flood of forged ones",
        f"{median(rates):,.0f}/s, p99 {_median(beside, 'p99_ms'):.1f} ms",
        "as sent: 1,000/s",
        median(rates) / 1000,
        at_least=0.95,
    )
    name = f"/token_status, {len(requests):,} remembered tokens, after the flood"
    yield _rates(name, after, "before", before, at_least=0.9)
    yield Row(
        "memory after the flood",
        f"{bytes_after / 1e6:.0f} MB",
        f"before: {bytes_before / 1e6:.0f} MB",
        bytes_after / bytes_before,
        at_most=1.05,
    )


def forge(token: str) -> str:
    """The same token with a well-formed but wrong signature."""
    signed, _, signature = token.rpartition(".")
    return f"{signed}.{signature[1:-1]}{signature[0]}{signature[-1]}"


def peers(bench: Bench) -> Iterator[Row]:
    """The same two requests to other servers, one worker each. They read the user every time."""
    people = Population(bench.new_database("SQLite"))
    form = urlencode({"username": EMAIL, "password": PASSWORD})
    body = json.dumps({"username": EMAIL, "password": PASSWORD})
    their_logins = {
        "fastapi-users": post("/login", "application/x-www-form-urlencoded", form),
        "Django REST framework": post("/token", "application/json", body),
    }
    with (
        servers.hourpass(bench.directory, people.variables) as server,
        servers.fastapi_users(bench.peers_python, bench.directory) as fastapi_users,
        servers.django(bench.peers_python, bench.directory) as django,
    ):
        questions = [_validations(bench, server, people, verify)]
        log_ins = [partial(_login_rate, bench, server, people.logins())]
        for peer, login in zip((fastapi_users, django), their_logins.values(), strict=True):
            answer = json.loads(peer.ask(login)[1])
            token = answer.get("access_token") or answer["access"]
            questions.append(partial(bench.measure, peer, [verify(token, "/me")]))
            log_ins.append(partial(_login_rate, bench, peer, [login]))
        ours, *theirs = bench.by_turns(*questions)
        our_rates, *their_rates = bench.by_turns(*log_ins)
    for name, samples, rates in zip(their_logins, theirs, their_rates, strict=True):
        yield _rates("/verify", ours, name, samples)
        yield Row(
            "logins/s",
            f"{median(our_rates):.1f}",
            f"{name}: {median(rates):.1f}",
            ratio(our_rates, rates),
        )


ALL = (
    validation,
    first_seen,
    logins,
    interference,
    scale,
    workers,
    memory,
    start,
    flood,
    peers,
)


def _validations(
    bench: Bench,
    server: servers.Server,
    people: Population,
    request: Callable[[str], bytes] = token_status,
) -> Callable[..., Sample]:
    """A load of 200 valid tokens that every worker has in its cache."""
    requests = [request(token) for token in people.tokens(200)]
    bench.drive(Load(server.port, requests, connections=32, count=4000))
    return partial(bench.measure, server, requests)


def _logins(
    bench: Bench, server: servers.Server, people: Population, seconds: float
) -> list[bytes]:
    """Logins for so many seconds, of users who have logged in from this address before."""
    requests = people.logins()
    bench.drive(Load(server.port, requests, seconds=1.2 * seconds))
    return requests


def _login_rate(bench: Bench, server: servers.Server, requests: Sequence[bytes]) -> float:
    return bench.measure(server, requests, 2).rate


def _rates(
    figure: str,
    ours: Sequence[Sample],
    other: str,
    others: Sequence[Sample],
    at_least: float | None = None,
) -> Row:
    """Requests per second, and the CPU time of one request."""
    return Row(
        figure,
        _rate(ours),
        f"{other}: {_rate(others)}",
        ratio([sample.rate for sample in ours], [sample.rate for sample in others]),
        at_least,
    )


def _rate(samples: Sequence[Sample]) -> str:
    return f"{_median(samples, 'rate'):,.0f}/s ({_median(samples, 'cpu_us'):.0f} µs)"


def _median(samples: Sequence[Sample], name: str) -> float:
    values: list[float] = [getattr(sample, name) for sample in samples]
    return median(values)
