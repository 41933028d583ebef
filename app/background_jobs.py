"""Background jobs of a process.

Jobs stop between two runs, never in the middle of one: a database connection that is canceled while
it opens would never be closed.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

Result = TypeVar("Result")


class BackgroundJobs:
    def __init__(self) -> None:
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.owners: list[object] = []  # the objects whose methods run; the metrics read them

    def start(self, job: Callable[[asyncio.Event], Coroutine[None, None, None]]) -> None:
        """Start a job. It must return soon after the event that it gets is set."""
        self.owners.append(getattr(job, "__self__", None))
        self._tasks.append(asyncio.create_task(job(self._stopping)))

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def wait_or_stop(stopping: asyncio.Event, seconds: float) -> bool:
    """Wait until the next run. Returns True if the job has to stop."""
    try:
        async with asyncio.timeout(seconds):
            return await stopping.wait()
    except TimeoutError:
        return False


class StoppedError(Exception):
    """The process ends before the work is done."""


async def finish_or_stop(
    work: Coroutine[None, None, Result], stopping: asyncio.Event, seconds: float
) -> Result:
    """Do the work. If it takes longer than `seconds` after the event was set, cancel it and raise
    StoppedError."""
    working = asyncio.create_task(work)
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({working, stop}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({working}, timeout=seconds)
        if not working.done():
            raise StoppedError
        return await working
    finally:
        working.cancel()
        stop.cancel()
