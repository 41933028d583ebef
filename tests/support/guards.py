"""What tests of the guard ask of it. Nothing here needs the service."""

import time
from collections.abc import Callable

import pytest

import hourpass
from hourpass import Guard, GuardError

SOON_SECONDS = 5.0


def refusal_of(guard: Guard, token: str) -> type[GuardError] | None:
    """Which of the kinds that callers know."""
    try:
        guard.check(token)
    except GuardError as error:
        return next(kind for kind in type(error).__mro__ if kind in vars(hourpass).values())
    return None


def comes_true(condition: Callable[[], bool]) -> bool:
    """Whether it does soon: another process has to hear of something first."""
    deadline = time.monotonic() + SOON_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def guard_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "hourpass.guard"]
