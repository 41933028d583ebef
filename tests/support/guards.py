"""Checks that tests of the guard share. Nothing here needs the service."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakSet

import pytest

import hourpass
from hourpass import Guard, GuardError
from hourpass.guard.service_client import ServiceClient

SOON_SECONDS = 5.0


@pytest.fixture(autouse=True)
def no_guard_outlives_its_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The thread of a guard left behind would log into later tests."""
    started: WeakSet[Guard] = WeakSet()
    connect = Guard._connect

    def note(guard: Guard) -> ServiceClient:
        started.add(guard)
        return connect(guard)

    monkeypatch.setattr(Guard, "_connect", note)
    yield
    for guard in list(started):
        guard.close()


def refusal_of(guard: Guard, token: str) -> type[GuardError] | None:
    """The public class of the error, or None if the guard accepts the token."""
    try:
        guard.check(token)
    except GuardError as error:
        return next(kind for kind in type(error).__mro__ if kind in vars(hourpass).values())
    return None


def comes_true(condition: Callable[[], bool]) -> bool:
    """Whether the condition is true within SOON_SECONDS: another process has to act first."""
    deadline = time.monotonic() + SOON_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@contextmanager
def fast_garbage_collection() -> Iterator[None]:
    """While this is open, `gc.collect()` looks at new objects only. In the process of a long run, a
    full collection takes half a second."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def guard_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "hourpass.guard"]
