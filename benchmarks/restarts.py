"""Restarts a busy service ten times in a minute, and counts refused and cut requests.

    python -m benchmarks.restarts

Clients do not repeat requests. The first column says how the service is restarted: with SIGHUP,
which replaces several workers one after the other, or by a service manager such as systemd, which
stops and starts the service and keeps its socket open meanwhile.
"""

import asyncio
import signal
import tempfile
from collections import Counter
from pathlib import Path
from time import perf_counter

import click
import httpx

from tests.support.service_manager import ServiceManager, service_manager
from tests.support.steady_load import SteadyLoad

_USER = {"username": "arthur", "password": "to the round table", "email": "a@camelot.example"}


def _token(url: str) -> str:
    httpx.post(f"{url}/register-user", json=_USER).raise_for_status()
    token: str = httpx.post(f"{url}/token", json=_USER).json()["token"]
    return token


async def _stop_and_start(manager: ServiceManager, *arguments: str) -> None:
    await asyncio.to_thread(manager.stop)
    manager.start(*arguments)
    await _ready(manager)


async def _ready(manager: ServiceManager) -> None:
    while await asyncio.to_thread(manager.next_state) != "READY=1":
        pass


async def _hang_up(manager: ServiceManager, number: int) -> None:
    assert manager.process
    manager.process.send_signal(signal.SIGHUP)
    done = "Restarted all workers"
    while manager.log.read_text().count(done) < number:  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.1)


async def _measure(how: str, workers: int, restarts: int, seconds: float) -> None:
    arguments = ("--workers", str(workers))
    with (
        tempfile.TemporaryDirectory(prefix="hourpass-restarts-") as place,
        service_manager(Path(place), sockets=workers, LOG_FORMAT="json") as manager,
    ):
        manager.start(*arguments)
        await _ready(manager)
        token = await asyncio.to_thread(_token, manager.url)
        took = []
        started = perf_counter()
        async with SteadyLoad(manager.url, token) as load:
            load.keep_alive(16, pause=0)
            load.keep_alive(8, pause=0.05)
            load.keep_alive(4, pause=0.95)
            load.new_connections(8, pause=0)
            load.listeners(20)
            for number in range(1, restarts + 1):
                await asyncio.sleep(
                    max(1, started + number * seconds / restarts - 3 - perf_counter())
                )
                begun = perf_counter()
                if how == "SIGHUP":
                    await _hang_up(manager, number)
                else:
                    await _stop_and_start(manager, *arguments)
                took.append(perf_counter() - begun)
            await asyncio.sleep(max(0, started + seconds - perf_counter()))
        lasted = perf_counter() - started
    refused = sum(count for (_, kind), count in load.failures.items() if kind == "refused")
    cut = sum(load.failures.values()) - refused
    errors = Counter(
        {
            f"{kind} {status}": count
            for (kind, status), count in load.answered.items()
            if status != 200
        }
    )
    print(
        f"| {how} | {workers} | {restarts} in {lasted:.0f} s | {max(took):.1f} s "
        f"| {sum(load.answered.values()):,} | {refused} | {cut} | {sum(errors.values())} "
        f"| {load.longest * 1000:,.0f} ms |",
        flush=True,
    )
    for name, count in (*load.failures.items(), *errors.items()):
        print(f"  {name}: {count}")


@click.command()
@click.option("--restarts", default=10, show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="Longer if the restarts are.")
def main(restarts: int, seconds: float) -> None:
    print(
        "| restarted by | workers | restarts | longest | answered | refused | cut | errors "
        "| slowest |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for how, workers in (("SIGHUP", 2), ("service manager", 2), ("service manager", 1)):
        asyncio.run(_measure(how, workers, restarts, seconds))


if __name__ == "__main__":
    main()
