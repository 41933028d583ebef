"""Awaits what another thread does, in asyncio and in trio."""

import asyncio
import math
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Any, TypeVar

_T = TypeVar("_T")


def in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()


def require_asyncio(what: str) -> None:
    if in_trio():
        raise RuntimeError(f"{what} needs asyncio; in trio, use `await guard.acheck_header(value)`")


async def wait_for(future: Future[_T], seconds: float | None = None) -> _T:
    """The future's result. Canceling the caller cancels the future, if it has not begun.

    Raises TimeoutError after so many seconds, which cancels it too.
    """
    if not in_trio():
        async with asyncio.timeout(seconds):
            return await asyncio.wrap_future(future)
    trio = sys.modules["trio"]
    with trio.move_on_after(math.inf if seconds is None else seconds):
        return await _wait_in_trio(future, trio)
    raise TimeoutError


async def _wait_in_trio(future: Future[_T], trio: Any) -> _T:
    is_done = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def wake(_: Future[_T]) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(is_done.set)

    future.add_done_callback(wake)
    try:
        await is_done.wait()
    except BaseException:
        future.cancel()
        raise
    return future.result()


async def run_in_thread(function: Callable[..., _T], *arguments: Any) -> _T:
    """Call it in a thread of its own, so that it does not block the event loop."""
    future: Future[_T] = Future()
    call = partial(_call, future, function, arguments)
    Thread(target=call, name="hourpass-call", daemon=True).start()
    return await wait_for(future)


def _call(future: Future[_T], function: Callable[..., _T], arguments: tuple[Any, ...]) -> None:
    future.set_running_or_notify_cancel()  # so that nobody can cancel it
    try:
        future.set_result(function(*arguments))
    except BaseException as error:  # noqa: BLE001 - the caller gets it
        future.set_exception(error)


async def run_blocking(function: Callable[..., _T], *arguments: Any) -> _T:
    """Call it in a thread of the event loop's own."""
    if in_trio():
        result: _T = await sys.modules["trio"].to_thread.run_sync(function, *arguments)
        return result
    return await asyncio.to_thread(function, *arguments)


async def wait_at_most(seconds: float, awaitable: Awaitable[_T]) -> _T:
    """Raises TimeoutError."""
    if not in_trio():
        async with asyncio.timeout(seconds):
            return await awaitable
    trio = sys.modules["trio"]
    with trio.move_on_after(seconds):
        return await awaitable
    raise TimeoutError
