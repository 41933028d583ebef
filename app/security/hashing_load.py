"""Counts the passwords that are hashed, and the time that this takes."""

from collections.abc import Callable
from threading import Lock
from time import perf_counter
from typing import TypeVar

Result = TypeVar("Result")


class HashingLoad:
    """Plain numbers, which the hashing threads change under a lock."""

    def __init__(self, threads: int, max_waiting: int) -> None:
        self.threads = threads
        self.max_waiting = max_waiting
        self.unfinished = 0  # waiting or being hashed
        self.number = 0
        self.seconds = 0.0
        self.waited_seconds = 0.0
        self._lock = Lock()

    @property
    def waiting(self) -> int:
        return max(0, self.unfinished - self.threads)

    def measured(self, work: Callable[[], Result]) -> Callable[[], Result]:
        """The same work, for a thread. The caller calls finish() when it is done or canceled."""
        submitted_at = perf_counter()
        with self._lock:
            self.unfinished += 1

        def run() -> Result:
            began_at = perf_counter()
            try:
                return work()
            finally:
                ended_at = perf_counter()
                with self._lock:
                    self.number += 1
                    self.seconds += ended_at - began_at
                    self.waited_seconds += began_at - submitted_at

        return run

    def finish(self) -> None:
        with self._lock:
            self.unfinished -= 1
