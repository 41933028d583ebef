"""Reports of the workers of `hourpass serve` to the process that started them.

Each worker writes its reports to memory that it shares with the supervisor, so neither waits for
the other. The supervisor can read the last report even after the worker was killed.
"""

import ctypes
import logging
import struct
from collections.abc import Callable
from multiprocessing import get_context
from threading import Lock
from zlib import crc32

MAX_BYTES = 256 * 1024  # of one report; the memory is only used as far as it is written

_HEADER = struct.Struct("=QII")  # number, length, checksum
_SLOT_BYTES = _HEADER.size + MAX_BYTES

_log = logging.getLogger("hourpass")


class Report:
    """The last report of a process. It has two slots, which are written in turn: a worker that is
    killed while it writes to one leaves the other."""

    def __init__(self) -> None:
        # Shared with the worker that it is pickled for.
        self._memory = get_context("spawn").RawArray(ctypes.c_char, 2 * _SLOT_BYTES)
        self._number = 0

    def write(self, report: bytes) -> None:
        if len(report) > MAX_BYTES:
            _log.error("The report of this worker is too long", extra={"bytes": len(report)})
            return
        self._number += 1
        slot = ctypes.addressof(self._memory) + self._number % 2 * _SLOT_BYTES
        header = _HEADER.pack(self._number, len(report), crc32(report))
        ctypes.memmove(slot + _HEADER.size, report, len(report))
        ctypes.memmove(slot, header, len(header))

    def read(self) -> bytes | None:
        """The last whole report, if there is one."""
        found: dict[int, bytes] = {}
        for slot in (0, _SLOT_BYTES):
            start = ctypes.addressof(self._memory) + slot
            number, length, checksum = _HEADER.unpack(ctypes.string_at(start, _HEADER.size))
            report = ctypes.string_at(start + _HEADER.size, min(length, MAX_BYTES))
            if number and crc32(report) == checksum:
                found[number] = report
        return found[max(found)] if found else None


class Reports:
    """The reports of all workers. One thread adds workers while another reads."""

    def __init__(self, retire: Callable[[bytes | None], None]) -> None:
        """`retire` gets the last report, if any, of each worker that has ended."""
        self._retire = retire
        self._lock = Lock()
        self._workers: list[tuple[Report, Callable[[], bool]]] = []

    def add(self, report: Report, has_ended: Callable[[], bool] = lambda: False) -> None:
        with self._lock:
            self._retire_ended()  # read() may never be called
            self._workers.append((report, has_ended))

    def read(self) -> list[bytes]:
        """The reports of the workers that run."""
        with self._lock:
            self._retire_ended()
            found = [report.read() for report, _ in self._workers]
        return [report for report in found if report is not None]

    def _retire_ended(self) -> None:
        running = []
        for report, has_ended in self._workers:
            if not has_ended():
                running.append((report, has_ended))
            else:
                self._retire(report.read())
        self._workers = running


_own: Report | None = None


def set_own(report: Report) -> None:
    """Called in each process that serves, before it starts the app."""
    global _own  # noqa: PLW0603 - uvicorn imports the app by its name, so it gets no argument
    _own = report


def own() -> Report | None:
    """The report of this process. None if it is not part of `hourpass serve`."""
    return _own
