"""A request that takes long lets quick ones go first."""

import asyncio
import socket
from contextlib import closing

import uvloop

from app.database.fast_queries import yield_to_event_loop


def test_requests_that_arrived_in_the_meantime_are_answered_first() -> None:
    """Read in one turn and answered in the next, as server/batch.py does."""
    done: list[str] = []

    async def log_in() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()

        def read() -> None:
            here.recv(1)
            loop.call_soon(done.append, "answered")

        with closing(here), closing(there):
            loop.add_reader(here, read)
            for step in ("found", "written", "signed"):
                there.send(b"?")
                await yield_to_event_loop()
                done.append(step)
            loop.remove_reader(here)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(log_in())
    assert done == ["answered", "found", "answered", "written", "answered", "signed"]
