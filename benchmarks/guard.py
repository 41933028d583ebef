"""What the guard costs an API, and how soon it hears of a revocation. Takes half a minute.

    python -m benchmarks.guard

Libraries verify with a key that they were given once. The guard gets each token as a new string,
as an API does. Latency counts from the answer to POST /revoke until the first refusal.
"""

import gc
import multiprocessing
import platform
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, sleep

import httpx
import jwt
from jose import jwk
from jose import jwt as jose_jwt

from app.database import utc_now
from benchmarks import servers
from benchmarks.bench import Bench, Row, ratio
from benchmarks.population import Population, verify
from benchmarks.run import print_table, processor
from hourpass import Guard, InvalidTokenError

ROUNDS = 5
TOKENS = 300  # new ones in each round
SAMPLES = 150
AUDIENCE = "ml-api"


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="hourpass-bench-") as place,
        multiprocessing.get_context("spawn").Pool(1) as generators,
    ):
        bench = Bench(
            rounds=ROUNDS,
            seconds=1,
            users=0,
            share=1,
            directory=Path(place),
            postgres=None,
            generators=generators,
            peers_python=Path(),
            _numbers=count(),
        )
        people = Population(bench.new_database("SQLite"))
        with servers.hourpass(bench.directory, people.variables) as server:
            url = f"http://127.0.0.1:{server.port}"
            with Guard(url) as guard:
                table = [*checks(bench, people, guard, url), *latency(people, guard, url)]
            table += routes(bench, people, url)
    print_table(table)
    print(f"\n{utc_now():%F}, {processor()}, Python {platform.python_version()}; {ROUNDS} rounds")


def checks(bench: Bench, people: Population, guard: Guard, url: str) -> Iterator[Row]:
    [public] = httpx.get(f"{url}/.well-known/jwks.json").json()["keys"]
    issuer = people.variables["ISSUER"]
    pyjwt_key, jose_key = jwt.PyJWK(public), jwk.construct(public)

    def with_pyjwt(token: str) -> None:
        jwt.decode(token, pyjwt_key, ["ES256"], audience=AUDIENCE, issuer=issuer)

    def with_jose(token: str) -> None:
        jose_jwt.decode(token, jose_key, ["ES256"], audience=AUDIENCE, issuer=issuer)

    [seen] = people.tokens(1)
    guard.check(seen)
    again = [seen.encode().decode() for _ in range(20_000)]
    batches = iter([people.tokens(TOKENS) for _ in range(ROUNDS)])
    batch: list[str] = []

    def new() -> float:
        batch[:] = next(batches)
        return microseconds(guard.check, batch)

    remembered, first, pyjwt, jose = bench.by_turns(
        lambda: microseconds(guard.check, [token.encode().decode() for token in again]),
        new,
        lambda: microseconds(with_pyjwt, batch or people.tokens(TOKENS)),
        lambda: microseconds(with_jose, batch or people.tokens(TOKENS)),
    )
    for name, taken, goal in (("seen before", remembered, 20), ("new", first, None)):
        for other, theirs in (("PyJWT", pyjwt), ("python-jose", jose)):
            yield Row(
                f"guard.check, token {name}",
                f"{median(taken):.2f} µs",
                f"{other}: {median(theirs):.0f} µs",
                ratio(theirs, taken),
                at_least=goal,
            )


def microseconds(check: Callable[[str], object], tokens: Sequence[str]) -> float:
    gc.collect()
    started_at = perf_counter()
    for token in tokens:
        check(token)
    return (perf_counter() - started_at) / len(tokens) * 1e6


def latency(people: Population, guard: Guard, url: str) -> Iterator[Row]:
    taken = []
    with httpx.Client(base_url=url) as client:
        for token in people.tokens(SAMPLES):
            guard.check(token)
            sleep(random.random() / 20)  # anywhere between two looks of the service
            client.post("/revoke", data={"token": token}).raise_for_status()
            answered_at = perf_counter()
            while holds(guard, token):
                sleep(0.0005)
            taken.append((perf_counter() - answered_at) * 1000)
    p99 = quantiles(taken, n=100)[98]
    for name, value, goal in (("median", median(taken), 100), ("p99", p99, 1000)):
        figure = f"from a revocation to its refusal, {name} of {SAMPLES}"
        yield Row(figure, f"{value:.1f} ms", f"{goal} ms", value / goal, at_most=1)


def holds(guard: Guard, token: str) -> bool:
    try:
        guard.check(token)
    except InvalidTokenError:
        return False
    return True


def routes(bench: Bench, people: Population, url: str) -> Iterator[Row]:
    tokens = people.tokens(200)
    with servers.guarded_api(bench.directory, url) as api:
        guarded, bare = bench.by_turns(
            *(
                partial(bench.measure, api, [verify(token, path) for token in tokens])
                for path in ("/guarded", "/open")
            )
        )
    rates, bare_rates = [one.rate for one in guarded], [one.rate for one in bare]
    yield Row(
        "a FastAPI route with Depends(guard)",
        f"{median(rates):,.0f}/s ({median(one.cpu_us for one in guarded):.0f} µs)",
        f"without: {median(bare_rates):,.0f}/s ({median(one.cpu_us for one in bare):.0f} µs)",
        ratio(rates, bare_rates),
        at_least=0.90,
    )


if __name__ == "__main__":
    main()
