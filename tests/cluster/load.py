"""Clients of both hosts, which record what was acknowledged, and a limited load of them."""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx

from examples.cluster.members import Cluster
from tests.support.users import bearer

CLIENTS = 6
PAUSE_SECONDS = 0.05  # of each client between two calls: the load is the same on any machine
REQUEST_SECONDS = 15.0
TIMEOUT_SECONDS = 60.0
# 502 and 504 are HAProxy's own. None is no response.
NOT_NOW = {None, 502, 503, 504}


@dataclass
class User:
    """A user as the responses describe it. After a change without a response, `is_certain` is
    False."""

    id: int
    username: str
    password: str
    tokens: list[str] = field(default_factory=list)  # valid ones
    refresh_token: str | None = None
    is_enabled: bool = True
    is_certain: bool = True
    has_new_password: bool = False


class Clients:
    """The operations, each as one client would do it. A response that no client should get is an
    entry of `unexpected`."""

    def __init__(self, cluster: Cluster, admin_password: str) -> None:
        self.users: list[User] = []
        self.revoked_at: dict[str, float] = {}  # by token, on the monotonic clock
        self.statuses: Counter[tuple[str, int | None]] = Counter()
        self.unexpected: list[str] = []
        self.succeeded_at: dict[str, list[float]] = {}  # by operation, on the monotonic clock
        self._tried: set[str] = set()  # tokens whose revocation was requested
        self._hosts = [cluster.url(name) for name in ("host_a", "host_b", "front")]
        self._http = httpx.AsyncClient(timeout=REQUEST_SECONDS, verify=False)
        self._admin = {"username": "admin", "password": admin_password}
        self._admin_token = ""
        self._numbers = count()
        self._prefix = f"user{random.getrandbits(32):08x}"

    async def close(self) -> None:
        await self._http.aclose()

    async def log_in_admin(self) -> None:
        answer = await self._call("admin login", "POST", "/token", 200, json=self._admin)
        assert answer, self.unexpected
        self._admin_token = answer["access_token"]

    @property
    def admin(self) -> dict[str, str]:
        return bearer(self._admin_token)

    async def register(self) -> User | None:
        name = f"{self._prefix}-{next(self._numbers)}"
        body = {"username": name, "password": f"of {name}", "email": f"{name}@example.org"}
        answer = await self._call("register", "POST", "/register-user", 201, json=body)
        if answer is None:
            return None
        user = User(answer["user_id"], name, body["password"])
        self.users.append(user)
        return user

    async def read(self, user: User) -> Any:
        """The account as administrators see it, or None if there is none."""
        url = f"{self._hosts[0]}/users/{user.id}"
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                with suppress(httpx.TransportError):
                    response = await self._http.get(url, headers=self.admin)
                    if response.status_code not in NOT_NOW:
                        break
                await asyncio.sleep(PAUSE_SECONDS)
        if response.status_code == 404:
            return None
        assert response.status_code == 200, response.text
        record = response.json()
        return record if record["username"] == user.username else None

    async def log_in(self, user: User) -> bool:
        form = {"username": user.username, "password": user.password, "scope": "offline_access"}
        answer = await self._call("login", "POST", "/token", 200, data=form)
        if answer is not None:
            user.tokens.append(answer["access_token"])
            user.refresh_token = answer["refresh_token"]
        return answer is not None

    async def refresh(self, user: User) -> bool:
        form = {"grant_type": "refresh_token", "refresh_token": user.refresh_token}
        answer = await self._call("refresh", "POST", "/token", 200, data=form)
        user.refresh_token = answer["refresh_token"] if answer else None
        if answer is not None:
            user.tokens.append(answer["access_token"])
        return answer is not None

    async def revoke(self, user: User) -> bool:
        token = user.tokens.pop()
        answer = await self._call("revoke", "POST", "/revoke", 200, data={"token": token})
        if answer is not None:
            self._note_revoked([token])
            if not answer["revoked"] and token not in self._tried:
                self.unexpected.append("revoke: it says that there was nothing to revoke")
        self._tried.add(token)
        return answer is not None

    async def disable(self, user: User) -> bool:
        path = f"/toggle-user-permission/{user.id}/0"
        answer = await self._call("disable", "PUT", path, 200, headers=self.admin)
        user.is_certain = answer is not None
        if answer is not None:
            user.is_enabled = False
            self._end_tokens(user)
        return answer is not None

    async def change_password(self, user: User) -> bool:
        body = {"password": user.password, "new_password": f"{user.password} again"}
        headers = bearer(user.tokens[-1])
        path = "/me/password"
        answer = await self._call("change password", "POST", path, 200, json=body, headers=headers)
        user.is_certain = answer is not None
        if answer is not None:
            user.password, user.has_new_password = body["new_password"], True
            self._end_tokens(user)
        return answer is not None

    def _end_tokens(self, user: User) -> None:
        self._note_revoked(user.tokens)
        user.tokens, user.refresh_token = [], None

    def _note_revoked(self, tokens: list[str]) -> None:
        self.revoked_at |= dict.fromkeys(tokens, time.monotonic())

    async def _call(
        self, operation: str, method: str, path: str, expected: int, **request: Any
    ) -> Any:
        """The body of the expected response, or None."""
        url = f"{self._hosts[next(self._numbers) % len(self._hosts)]}{path}"
        status: int | None = None
        try:
            response = await self._http.request(method, url, **request)
            status = response.status_code
        except httpx.TransportError:
            pass
        self.statuses[operation, status] += 1
        if status == expected:
            self.succeeded_at.setdefault(operation, []).append(time.monotonic())
            return response.json()
        if status not in NOT_NOW:
            self.unexpected.append(f"{operation}: {status} {response.text}")
        return None


async def persist(operation: Callable[[User], Awaitable[bool]], user: User) -> None:
    """Again and again until it is acknowledged, as clients do after a 503."""
    tokens, refresh_token = list(user.tokens), user.refresh_token
    async with asyncio.timeout(2 * TIMEOUT_SECONDS):
        while not await operation(user):
            user.tokens, user.refresh_token = list(tokens), refresh_token
            await asyncio.sleep(0.1)


class Load:
    """CLIENTS clients, each of which does one thing after the other."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._idle: deque[User] = deque()
        self._kinds = random.Random(1)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stopping = asyncio.Event()
        await self._do_each()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CLIENTS):
                tasks.create_task(self._repeat(stopping))
            try:
                yield
            finally:
                stopping.set()

    async def _do_each(self) -> None:
        """Do each operation at least three times, even on a slow machine."""
        clients = self._clients
        for operation in (
            clients.refresh,
            clients.revoke,
            clients.disable,
            clients.change_password,
        ):
            for _ in range(3):
                user = await clients.register()
                assert user
                await persist(clients.log_in, user)
                await persist(operation, user)

    async def _repeat(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self._act()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _act(self) -> None:
        """Do one operation with a user that no other client uses meanwhile. New users come first.
        Disabled and uncertain users are not used again."""
        user = self._idle.popleft() if len(self._idle) > CLIENTS else await self._clients.register()
        if user is None:
            return
        await self._choose(user)(user)
        if user.is_certain and user.is_enabled and len(self._idle) < 10 * CLIENTS:
            self._idle.append(user)

    def _choose(self, user: User) -> Callable[[User], Awaitable[Any]]:
        kinds: dict[Callable[[User], Awaitable[Any]], int] = {self._clients.log_in: 4}
        if user.refresh_token:
            kinds[self._clients.refresh] = 3
        if user.tokens:
            kinds[self._clients.revoke] = 2
            kinds[self._clients.change_password] = kinds[self._clients.disable] = 1
        if self._kinds.random() < 0.2:
            return self._also_register
        return self._kinds.choices(list(kinds), list(kinds.values()))[0]

    async def _also_register(self, user: User) -> None:
        new = await self._clients.register()
        if new is not None:
            self._idle.append(new)
        await self._clients.log_in(user)
