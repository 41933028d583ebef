"""Asks guards and workers whether they accept tokens."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import httpx

from examples.cluster.members import Cluster
from hourpass import Guard, GuardError, ServiceUnavailableError
from hourpass.guard.revocation_feed import OUTAGE_NOTICED_SECONDS
from tests.cluster.load import Clients
from tests.support.users import bearer

HOSTS = ("host_a", "host_b")
WORKERS = 2  # of each host
START_SECONDS = 200  # for all of them; a host is ready with its first
ROUND_SECONDS = 0.2
# A guard that hears nothing rejects all tokens after this time. The rest is for a busy machine.
GUARD_SECONDS = OUTAGE_NOTICED_SECONDS + 2
SAMPLE = 20


class Guards:
    """Guards at the front and at each host, which check tokens all the time while `watching`."""

    def __init__(self, cluster: Cluster, clients: Clients, good_tokens: list[str]) -> None:
        self.wrong: list[str] = []
        self.unavailable: Counter[str] = Counter()  # rounds in which the guard accepted nothing
        self.rounds = 0
        self._clients = clients
        self.good_tokens = good_tokens
        self._guards = {name: Guard(cluster.url(name)) for name in ("front", *HOSTS)}
        self._api = f"{cluster.api_url}/whoami"

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        async with httpx.AsyncClient(verify=False, timeout=10) as client:
            stopping = asyncio.Event()
            task = asyncio.create_task(self._watch(client, stopping))
            try:
                yield
            finally:
                stopping.set()
                await task
                self.close()

    def close(self) -> None:
        for guard in self._guards.values():
            guard.close()

    def accepting(self, token: str) -> list[str]:
        """The names of the guards that accept it."""
        return [name for name, guard in self._guards.items() if _refusal(guard, token) is None]

    async def _watch(self, client: httpx.AsyncClient, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await asyncio.to_thread(self._check)
            await self._check_api(client)
            self.rounds += 1
            await asyncio.sleep(ROUND_SECONDS)

    def _check(self) -> None:
        before = time.monotonic() - GUARD_SECONDS
        revoked = [token for token, at in self._clients.revoked_at.copy().items() if at < before]
        sample = random.sample(revoked, min(SAMPLE, len(revoked)))
        for name, guard in self._guards.items():
            refusal = _refusal(guard, random.choice(self.good_tokens))
            if refusal is ServiceUnavailableError:
                self.unavailable[name] += 1
            elif refusal is not None:
                self.wrong.append(f"{name} refused a good token: {refusal.__name__}")
            for token in sample:
                if _refusal(guard, token) is None:
                    self.wrong.append(f"{name} accepted a revoked token")

    async def _check_api(self, client: httpx.AsyncClient) -> None:
        headers = bearer(random.choice(self.good_tokens))
        try:
            response = await client.get(self._api, headers=headers)
        except httpx.TransportError:
            return
        if response.status_code == 503:
            self.unavailable["api"] += 1
        elif response.status_code != 200:
            self.wrong.append(f"the API refused a good token: {response.text}")


def _refusal(guard: Guard, token: str) -> type[GuardError] | None:
    try:
        guard.check(token)
    except GuardError as error:
        return type(error)
    return None


class Workers:
    """Each worker by itself. It begins its request ids with a text of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self._urls = [cluster.url(name) for name in HOSTS]
        self._clients: dict[str, httpx.AsyncClient] = {}

    @asynccontextmanager
    async def found(self) -> AsyncIterator["Workers"]:
        try:
            async with asyncio.timeout(START_SECONDS):
                for number, url in enumerate(self._urls, 1):
                    while len(self._clients) < number * WORKERS:
                        await self._find(url)
            yield self
        finally:
            for client in self._clients.values():
                await client.aclose()

    async def statuses(self, path: str, tokens: Iterable[str] = ("",)) -> list[int]:
        """The responses of each worker for each token."""
        listed = list(tokens)
        answers = await asyncio.gather(*(self._ask(one, path, listed) for one in self._clients))
        return [status for statuses in answers for status in statuses]

    async def accept(self, tokens: list[str]) -> bool:
        """Whether any worker accepts any of them."""
        statuses = [*await self.statuses("/verify", tokens), *await self.statuses("/me", tokens)]
        return 200 in statuses

    async def _ask(self, worker: str, path: str, tokens: list[str]) -> list[int]:
        statuses: list[int] = []
        async with asyncio.timeout(60):
            while len(statuses) < len(tokens):
                token = tokens[len(statuses)]
                headers = bearer(token) if token else {}
                client = self._clients[worker]
                with suppress(httpx.TransportError):
                    response = await client.get(path, headers=headers)
                    if _worker(response) == worker:
                        assert response.status_code != 500, path
                        statuses.append(response.status_code)
                        continue
                # The connection had been closed, and another worker may have taken the new one.
                await client.aclose()
                self._clients[worker] = _client(str(client.base_url))
        return statuses

    async def _find(self, url: str) -> None:
        client = _client(url)
        worker = _worker(await client.get("/healthz"))
        if worker in self._clients:
            await client.aclose()
        else:
            self._clients[worker] = client


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=url, limits=httpx.Limits(max_connections=1), timeout=15, verify=False
    )


def _worker(response: httpx.Response) -> str:
    return response.headers["x-request-id"].partition("-")[0]
