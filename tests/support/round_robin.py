"""A TCP proxy in front of several services, which forwards each connection to the next of them."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from urllib.parse import urlsplit


@contextmanager
def round_robin(urls: Sequence[str]) -> Iterator[str]:
    """Yields the URL of the proxy."""
    loop = asyncio.new_event_loop()
    targets = cycle([urlsplit(url) for url in urls])
    tasks: set[asyncio.Task[None]] = set()
    started, stopping = threading.Event(), asyncio.Event()
    port = 0

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        target = next(targets)
        writers = [writer]
        try:
            upstream, to_upstream = await asyncio.open_connection(target.hostname, target.port)
            writers.append(to_upstream)
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, to_upstream))
                group.create_task(_copy(upstream, writer))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in writers:
                each.transport.abort()

    async def serve() -> None:
        nonlocal port
        server = await asyncio.start_server(forward, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        started.set()
        await stopping.wait()
        server.close()
        await asyncio.sleep(0.1)  # until the last connection has its task
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        loop.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()
