"""Measures how soon a thousand guards receive a revocation, and what they cost without any.

    python -m benchmarks.feed [--listeners 20 100 300 1000 4000] [--revocations 30]
    python -m benchmarks.feed --faults          (takes some minutes more)

One worker serves listeners that wait as guards do, in another process on the same machine. Times
are measured from the response to POST /revoke until a listener has read the revocation: the median
of all listeners, and the last listener of each revocation (median and worst). The list of every
listener is compared with what was revoked. With --faults, there are two workers and 1,000
listeners: a worker is killed with SIGKILL, and PostgreSQL is restarted.
"""

import argparse
import asyncio
import multiprocessing
import os
import random
import re
import resource
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, cast

from benchmarks import servers
from benchmarks.load import Load, drive, post
from benchmarks.population import Population

WAIT_SECONDS = 30
IDLE_SECONDS = 10
CONNECTS_AT_ONCE = 50
LOOK_SECONDS = 0.05
HEARD_SECONDS = 60  # within which every listener has to know everything

_VALUE = re.compile(rb'"value":"([^"]+)"')
_CURSOR = re.compile(rb'"cursor":"([^"]+)"')


class Listener(asyncio.Protocol):
    """Asks again after each response, and connects again if it was disconnected."""

    def __init__(self, crowd: "Crowd") -> None:
        self._crowd = crowd
        self._cursor = b""
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self.heard: set[bytes] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._received.clear()
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.come_back(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or not self._is_whole(bytes(head).lower(), body):
            return
        status = int(head[9:12])
        if status == 200:
            now = time.perf_counter()
            for value in _VALUE.findall(body):
                if value not in self.heard:
                    self.heard.add(value)
                    self._crowd.heard_at[value].append(now)
            self._cursor = _CURSOR.findall(body)[-1]
        else:
            self._crowd.refusals[status] += 1
            self._cursor = b"" if status == 410 else self._cursor
        self._received.clear()
        if status == 503:
            asyncio.get_running_loop().call_later(random.random(), self._ask)
        else:
            self._ask()

    def _is_whole(self, head: bytes, body: bytearray) -> bool:
        if b"transfer-encoding: chunked" in head:
            return body.endswith(b"0\r\n\r\n")
        return len(body) >= int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])

    def _ask(self) -> None:
        assert self._transport
        query = b"?wait=%d&after=%s" % (WAIT_SECONDS, self._cursor) if self._cursor else b""
        self._transport.write(b"GET /revocations%s HTTP/1.1\r\nHost: x\r\n\r\n" % query)


class Crowd:
    """All listeners, in a process of their own."""

    def __init__(self, port: int, number: int) -> None:
        self._port = port
        self.listeners = [Listener(self) for _ in range(number)]
        self.heard_at: dict[bytes, list[float]] = defaultdict(list)
        self.refusals: dict[int, int] = defaultdict(int)
        self._tasks: set[asyncio.Task[None]] = set()
        self._connecting = asyncio.Semaphore(CONNECTS_AT_ONCE)

    def come_back(self, listener: Listener) -> None:
        task = asyncio.create_task(self._connect(listener, random.random() / 2))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, listener: Listener, pause: float = 0) -> None:
        while True:
            await asyncio.sleep(pause)
            try:
                async with self._connecting:
                    await asyncio.get_running_loop().create_connection(
                        lambda: listener, "127.0.0.1", self._port
                    )
            except OSError:
                pause = random.random()
            else:
                return

    async def run(self, control: Connection) -> None:
        await asyncio.gather(*(self._connect(listener) for listener in self.listeners))
        control.send("connected")
        while True:
            order = await asyncio.to_thread(control.recv)
            if order is None:
                return
            wanted = set(order)
            for _ in range(int(HEARD_SECONDS / LOOK_SECONDS)):
                if all(wanted <= listener.heard for listener in self.listeners):
                    break
                await asyncio.sleep(LOOK_SECONDS)
            missed = sum(len(wanted - listener.heard) for listener in self.listeners)
            times = {value: self.heard_at[value] for value in order}
            control.send((times, missed, dict(self.refusals)))


def listen(port: int, number: int, control: Connection) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    import uvloop

    uvloop.run(Crowd(port, number).run(control))


@contextmanager
def crowd(port: int, number: int) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=listen, args=(port, number, theirs), daemon=True)
    process.start()
    try:
        assert ours.recv() == "connected"
        time.sleep(1)  # until all wait
        yield ours
        ours.send(None)
        process.join(10)
    finally:
        process.kill()


class Revoker:
    def __init__(self, server: servers.Server, people: Population, number: int) -> None:
        self._server = server
        self._tokens = people.tokens(number)
        self.revoked: dict[bytes, float] = {}  # value: when the answer came

    def revoke(self) -> None:
        import base64
        import json

        token = self._tokens.pop()
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        body = f"token={token}"
        status, _ = self._server.ask(post("/revoke", "application/x-www-form-urlencoded", body))
        assert status == 200, status
        self.revoked[f"jti:{claims['jti']}".encode()] = time.perf_counter()

    def some(self, number: int) -> dict[bytes, float]:
        before = set(self.revoked)
        for _ in range(number):
            time.sleep(0.3 + random.random() / 5)
            self.revoke()
        return {value: at for value, at in self.revoked.items() if value not in before}


def report(control: Connection, revoked: dict[bytes, float], number: int) -> str:
    control.send(list(revoked))
    heard_at, missed, refusals = control.recv()
    delays = [[(at - revoked[value]) * 1000 for at in times] for value, times in heard_at.items()]
    lasts = [max(times) for times in delays if times]
    every = [delay for times in delays for delay in times]
    text = (
        f"median {median(every):6.0f} ms, last {median(lasts):6.0f} ms (worst {max(lasts):6.0f}), "
        f"missed {missed} of {number * len(revoked)}"
    )
    return text + (f", refusals {refusals}" if refusals else "")


def measure(directory: Path, url: str, number: int, revocations: int) -> Iterator[str]:
    people = Population(url)
    with servers.hourpass(directory, {**people.variables, "LOG_LEVEL": "error"}) as server:
        revoker = Revoker(server, people, 2 * revocations + 10)
        revoker.revoke()
        before = server.memory_bytes()
        with crowd(server.port, number) as control:
            memory = (server.memory_bytes() - before) / number
            used = sum(server.cpu_seconds().values())
            time.sleep(IDLE_SECONDS)
            idle = (sum(server.cpu_seconds().values()) - used) / IDLE_SECONDS
            yield f"idle {idle:6.1%} of a core, {memory / 1024:.0f} KiB each"
            yield report(control, revoker.some(revocations), number)
            storm = Load(
                server.port, people.logins(200), seconds=revocations * 0.45 + 2, connections=8
            )
            context = multiprocessing.get_context("spawn")
            with context.Pool(1) as generators:
                logins = generators.apply_async(drive, (storm,))
                time.sleep(1)
                yield "during logins: " + report(control, revoker.some(revocations), number)
                logins.get(60)


def faults(directory: Path, url: str, restart: Any, number: int = 1_000) -> Iterator[str]:
    people = Population(url)
    variables = {**people.variables, "LOG_LEVEL": "error"}
    with servers.hourpass(directory, variables, workers=2) as server:
        revoker = Revoker(server, people, 50)
        with crowd(server.port, number) as control:
            revoked = revoker.some(5)
            # The busiest process is a worker.
            busy = max(server.cpu_seconds().items(), key=lambda item: item[1])[0]
            os.kill(busy, signal.SIGKILL)
            for _ in range(10):
                revoked |= _in_spite_of_faults(revoker)
            yield "a worker killed: " + report(control, revoked, number)
            if restart:
                revoked = revoker.some(3)
                restart()
                for _ in range(10):
                    revoked |= _in_spite_of_faults(revoker)
                yield "PostgreSQL restarted: " + report(control, revoked, number)


def _in_spite_of_faults(revoker: Revoker) -> dict[bytes, float]:
    deadline = time.monotonic() + 30
    while True:
        try:
            return revoker.some(1)
        except (OSError, AssertionError):
            if time.monotonic() > deadline:
                raise


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--listeners", type=int, nargs="+", default=[20, 100, 300, 1000, 4000])
    parser.add_argument("--revocations", type=int, default=30)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--databases", nargs="+", default=["SQLite", "PostgreSQL"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hourpass-bench-") as place:
        directory = Path(place)
        directory.chmod(0o755)
        with servers.postgres(directory) as postgres:

            def restart() -> None:
                process = postgres.get_postmaster_info().process
                process.send_signal(signal.SIGINT)
                process.wait(30)
                time.sleep(2)
                postgres.ensure_postgres_running()

            def new_database(kind: str, name: str) -> str:
                if kind == "SQLite":
                    return f"sqlite:///{directory / name}.db"
                postgres.psql(f"CREATE DATABASE {name}")
                url: str = postgres.get_uri(name)
                return url

            for kind in arguments.databases:
                for number in arguments.listeners:
                    url = new_database(kind, f"feed_{number}")
                    for line in measure(directory, url, number, arguments.revocations):
                        print(f"{kind:<11}{number:>5} listeners  {line}", flush=True)
                if arguments.faults:
                    url = new_database(kind, "faults")
                    for line in faults(directory, url, restart if kind == "PostgreSQL" else None):
                        print(f"{kind:<11}{1000:>5} listeners  {line}", flush=True)


if __name__ == "__main__":
    main()
