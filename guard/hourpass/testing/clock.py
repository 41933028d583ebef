"""A clock that tests can advance."""

import time
from datetime import timedelta


class MovableClock:
    """Real time plus all that it was advanced by."""

    def __init__(self) -> None:
        self._moved_by = 0.0

    def time(self) -> float:
        return time.time() + self._moved_by

    def monotonic(self) -> float:
        return time.monotonic() + self._moved_by

    def advance(self, span: timedelta) -> None:
        self._moved_by += span.total_seconds()
