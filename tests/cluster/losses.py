"""How an asynchronous failover loses the last second."""

import asyncio
import os
import signal
import time
from contextlib import suppress

import httpx

from examples.cluster.members import Cluster, command
from tests.cluster.load import Clients, User

WAIT_SECONDS = 120
# PostgreSQL logs the next 32 values of a sequence together, so fewer users would lose no id.
USERS_LOST = 40
LOGINS_LOST = 10
CLIENTS = 6


async def make_asynchronous(cluster: Cluster) -> None:
    """Wait until Patroni no longer names a synchronous standby. A standby that lacks more than a
    megabyte may take over too: a busy machine needs seconds for what is to be lost."""
    changes = {"synchronous_mode": False, "maximum_lag_on_failover": 2**30}
    await asyncio.to_thread(cluster.configure, changes)
    async with asyncio.timeout(WAIT_SECONDS):
        while await asyncio.to_thread(cluster.synchronous_standby):
            await asyncio.sleep(0.2)


async def standbys_have_all(cluster: Cluster) -> None:
    """Wait until every standby has written what the primary has."""
    async with httpx.AsyncClient(verify=False) as client, asyncio.timeout(WAIT_SECONDS):
        while True:
            states = [
                (await client.get(f"http://{address}:8008/patroni")).json()["xlog"]
                for address in cluster.members.values()
            ]
            ahead = max(state.get("location", 0) for state in states)
            received = [
                state["received_location"] for state in states if "received_location" in state
            ]
            if len(received) == 2 and min(received) >= ahead:
                return
            await asyncio.sleep(0.2)


async def lose_a_second(
    cluster: Cluster, primary: str, clients: Clients, doomed: list[User]
) -> list[User]:
    """The users that register while nothing reaches a standby; the first ones log in. The tokens
    of the `doomed` are revoked meanwhile."""
    known = len(clients.users)
    began = time.monotonic()
    is_over = asyncio.Event()

    async def stop_walsenders_again() -> None:
        while not is_over.is_set():
            await asyncio.to_thread(stop_walsenders, cluster, primary)
            await asyncio.sleep(0.1)

    async def register() -> None:
        while len(clients.users) < known + USERS_LOST or time.monotonic() < began + 1:
            user = await clients.register()
            if user and len(clients.users) <= known + LOGINS_LOST:
                await clients.log_in(user)

    stop_walsenders(cluster, primary)
    stopping = asyncio.create_task(stop_walsenders_again())
    async with asyncio.timeout(WAIT_SECONDS):
        revocations = [clients.revoke(user) for user in doomed]
        await asyncio.gather(*(register() for _ in range(CLIENTS)), *revocations)
    is_over.set()
    await stopping
    return clients.users[known:]


def stop_walsenders(cluster: Cluster, primary: str) -> None:
    for pid in cluster.processes(primary):
        if "walsender" in command(pid)[0]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
