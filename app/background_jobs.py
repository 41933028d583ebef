"""Work that recurs for as long as the process lives.

It ends between two rounds, never within one: a database connection that is cut off while it opens
would be lost, and nobody would close it.
"""

import asyncio
from collections.abc import Callable, Coroutine


class Chores:
    def __init__(self) -> None:
        self._ending = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, chore: Callable[[asyncio.Event], Coroutine[None, None, None]]) -> None:
        self._tasks.append(asyncio.create_task(chore(self._ending)))

    async def end(self) -> None:
        self._ending.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def pause(ending: asyncio.Event, seconds: float) -> bool:
    """Wait for the next round. Returns whether it is time to end instead."""
    try:
        async with asyncio.timeout(seconds):
            return await ending.wait()
    except TimeoutError:
        return False
