"""Measures what the guard costs an API, and how soon it learns of a revocation.

    python -m benchmarks.guard

Takes half a minute. Other libraries verify with a key that they got once. The latency is measured
from the response to POST /revoke until the first refusal.
"""

import asyncio
import gc
import json
import multiprocessing
import platform
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, sleep

import httpx
import jwt
from jose import jwk
from jose import jwt as jose_jwt
from websockets.asyncio.client import ClientConnection, connect

from benchmarks import servers
from benchmarks.bench import Bench, Row, Sample, ratio
from benchmarks.load import post
from benchmarks.population import Population, verify
from benchmarks.run import print_table, processor
from hourpass import Guard, InvalidTokenError

ROUNDS = 5
TOKENS = 300  # new ones in each round
SAMPLES = 150
SOCKETS = 1_000
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
            table += chats(bench, people, url)
            table += closings(bench, people, url)
    print_table(table)
    python = platform.python_version()
    print(f"\n{datetime.now(UTC):%F}, {processor()}, Python {python}; {ROUNDS} rounds")


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
    known = people.tokens(TOKENS)
    batches = iter([people.tokens(TOKENS) for _ in range(ROUNDS)])
    remembered, first, pyjwt, jose = bench.by_turns(
        lambda: microseconds(guard.check, copies(seen, 20_000)),
        lambda: microseconds(guard.check, next(batches)),
        lambda: microseconds(with_pyjwt, known),
        lambda: microseconds(with_jose, known),
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


def copies(token: str, number: int) -> list[str]:
    """Copies whose hash is not cached, like a token that arrives with a request."""
    return [token.encode().decode() for _ in range(number)]


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
    paths = ("/guarded", "/behind-middleware", "/open", "/with-a-dependency")
    with servers.guarded_api(bench.directory, url) as api:
        guarded, behind, bare, idle = bench.by_turns(
            *(
                partial(bench.measure, api, [verify(token, path) for token in tokens])
                for path in paths
            )
        )
    for figure, ours, other, theirs, goal in (
        ("Depends(guard)", guarded, "without", bare, 0.90),
        ("Depends(guard)", guarded, "a dependency that does nothing", idle, None),
        ("guard.middleware", behind, "without", bare, None),
    ):
        yield Row(
            f"a FastAPI route with {figure}",
            rate(ours),
            f"{other}: {rate(theirs)}",
            ratio([one.rate for one in ours], [one.rate for one in theirs]),
            at_least=goal,
        )


def chats(bench: Bench, people: Population, url: str) -> Iterator[Row]:
    """A body of 4 KB from which the model is read."""
    tokens = people.tokens(200, scope="predict:llama-*")
    messages = [{"role": "user", "content": "x" * 200}] * 17
    body = json.dumps({"model": "llama-3.1", "messages": messages})
    with servers.guarded_api(bench.directory, url) as api:
        bare, guarded, by_model = bench.by_turns(
            *(
                partial(
                    bench.measure,
                    api,
                    [
                        post(path, "application/json", body, f"Authorization: Bearer {token}")
                        for token in tokens
                    ],
                )
                for path in ("/chat-open", "/chat-guarded", "/chat-by-model")
            )
        )
    for other, theirs in (("without", bare), ("Depends(guard)", guarded)):
        yield Row(
            'a chat of 4 KB with require("predict:{model}", model=from_json("model"))',
            rate(by_model),
            f"{other}: {rate(theirs)}",
            ratio([one.rate for one in by_model], [one.rate for one in theirs]),
        )


def closings(bench: Bench, people: Population, url: str) -> Iterator[Row]:
    """The latency for open websockets whose token is revoked."""
    [token] = people.tokens(1)
    with servers.guarded_api(bench.directory, url) as api:
        address = f"ws://127.0.0.1:{api.port}/behind-middleware"
        taken = asyncio.run(close_all(address, token, url))
    figure = f"from a revocation to the closing of {SOCKETS:,} websockets"
    for name, value in (("median", median(taken)), ("last", max(taken))):
        yield Row(f"{figure}, {name}", f"{value:.0f} ms", "1000 ms", value / 1000, at_most=1)


async def close_all(address: str, token: str, url: str) -> list[float]:
    """Milliseconds from the response to the revocation until the end of each websocket."""
    headers = {"Authorization": f"Bearer {token}"}
    sockets = [await connect(address, additional_headers=headers) for _ in range(SOCKETS)]
    answered_at = 0.0

    async def closing(socket: ClientConnection) -> float:
        await socket.wait_closed()
        assert socket.close_code == 1008
        return (perf_counter() - answered_at) * 1000

    closed = [asyncio.create_task(closing(socket)) for socket in sockets]
    async with httpx.AsyncClient() as client:
        await client.post(f"{url}/revoke", data={"token": token})
    answered_at = perf_counter()
    return list(await asyncio.gather(*closed))


def rate(samples: Sequence[Sample]) -> str:
    """Requests per second, and the CPU time of one request."""
    per_second = median(sample.rate for sample in samples)
    return f"{per_second:,.0f}/s ({median(sample.cpu_us for sample in samples):.0f} µs)"


if __name__ == "__main__":
    main()
