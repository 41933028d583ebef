"""Background jobs of a process.

Jobs stop between two runs, never in the middle of one: a database connection that is canceled while
it opens would never be closed.
"""

import asyncio
from collections.abc import Callable, Coroutine


class BackgroundJobs:
    def __init__(self) -> None:
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.owners: list[object] = []  # of the methods that run

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
