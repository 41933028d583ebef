"""A TCP relay that goes silent: it forwards nothing, and closes nothing either, as a firewall that
has forgotten its connections, or a host whose network is gone."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class SilentRelay:
    """Runs on a thread of its own. Each method returns once it is so."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._loop = asyncio.new_event_loop()
        self._is_open = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def silence(self) -> None:
        self._run(self._is_open.clear)

    def forward_again(self) -> None:
        """The connections go on where they stopped."""
        self._run(self._is_open.set)

    def forget(self) -> None:
        """The connections of now stay silent for ever. New ones are forwarded."""

        def replace() -> None:
            self._is_open = asyncio.Event()
            self._is_open.set()

        self._run(self._is_open.clear)
        self._run(replace)

    def _run(self, change: Callable[[], None]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(change)
        self._loop.call_soon_threadsafe(done.set)
        assert done.wait(10)

    async def serve(self, started: threading.Event, stopping: asyncio.Event) -> None:
        self._is_open.set()
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await stopping.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        is_open = self._is_open
        writers = [writer]
        try:
            await is_open.wait()
            from_server, to_server = await asyncio.open_unix_connection(self._socket_path)
            writers.append(to_server)
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, to_server, is_open))
                group.create_task(_pump(from_server, writer, is_open))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for each in writers:
                each.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_open: asyncio.Event
) -> None:
    while data := await reader.read(65536):
        await is_open.wait()
        writer.write(data)
        await writer.drain()
    await is_open.wait()
    with suppress(OSError):
        writer.write_eof()


@contextmanager
def silent_relay(socket_path: str) -> Iterator[SilentRelay]:
    """Between a TCP port and PostgreSQL's socket."""
    relay = SilentRelay(socket_path)
    started = threading.Event()
    stopping = asyncio.Event()
    thread = threading.Thread(
        target=lambda: relay._loop.run_until_complete(relay.serve(started, stopping))
    )
    thread.start()
    try:
        assert started.wait(10)
        yield relay
    finally:
        relay._loop.call_soon_threadsafe(stopping.set)
        thread.join(10)
        relay._loop.close()
