"""The standard streams of the process: opens closed ones, and makes writes to standard error return
at once.

Log lines go to standard error, which is often a pipe. Once a pipe is full, a write waits until its
reader reads on. If the reader has stopped, that would stop every request, and the end of the
process too. So a thread writes the lines of a server, and the lines that wait for it are bounded.
"""

import atexit
import io
import os
import sys
from collections.abc import Callable
from queue import SimpleQueue
from select import select
from threading import Event, RLock, Thread
from typing import TextIO, cast

MAX_WAITING_CHARACTERS = 4 * 2**20  # some 15,000 lines of the request log
EXIT_SECONDS = 2.0


def open_closed() -> None:
    """Open /dev/null in place of standard streams that were closed when the process started.

    Otherwise the next file or connection would get the number of a closed stream, and with it all
    that libraries print. Besides, Python sets a closed stream to None.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest free one
            os.set_inheritable(number, True)  # noqa: FBT003 - workers inherit it
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - stays open
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def queue_errors(describe_dropped: Callable[[int], str]) -> None:
    """Make `sys.stderr` a QueuedStream, unless it was replaced, as tests and notebooks do.

    `describe_dropped` returns a log line that says how many lines were dropped.
    """
    if isinstance(sys.stderr, QueuedStream):
        sys.stderr.describe_dropped = describe_dropped
        sys.stderr.resume()
    elif sys.stderr is sys.__stderr__ and sys.stderr is not None:
        queued = QueuedStream(sys.stderr, describe_dropped)
        sys.stderr = cast("TextIO", queued)
        atexit.register(queued.finish)


def finish_errors() -> None:
    """Write the waiting lines before the process ends: a signal may end it, without cleanup."""
    if isinstance(sys.stderr, QueuedStream):
        sys.stderr.finish()


class QueuedStream(io.TextIOBase):
    """Writes to another stream in a thread. write() never waits.

    If more than MAX_WAITING_CHARACTERS wait, it drops lines until half of these are written, and
    then writes how many lines are missing. The lines keep their order.
    """

    def __init__(self, stream: TextIO, describe_dropped: Callable[[int], str]) -> None:
        self.describe_dropped = describe_dropped
        self._stream = stream
        # Not `stream` itself: at the end of the process, the interpreter waits for its lock.
        buffer = stream.buffer
        self._file = cast("io.RawIOBase", getattr(buffer, "raw", buffer))
        self._queue: SimpleQueue[tuple[str, int] | Event] = SimpleQueue()
        self._lock = RLock()  # a signal handler may write while this thread does
        self._waiting = 0  # characters
        self._dropped = 0  # lines
        self._is_dropping = False
        self._is_finished = False
        Thread(target=self._run, name="log writer", daemon=True).start()

    def write(self, text: str) -> int:
        if not isinstance(text, str):  # Click tries bytes first
            raise TypeError("write() takes a str")
        with self._lock:
            limit = MAX_WAITING_CHARACTERS // (2 if self._is_dropping else 1)
            self._is_dropping = self._waiting + len(text) > limit
            if self._is_dropping:
                self._dropped += text.count("\n")
            else:
                self._report_dropped()
                self._put(text)
        if self._is_finished:
            self.finish()
        return len(text)

    def finish(self) -> None:
        """Wait until everything is written, but at most EXIT_SECONDS. If that succeeds, later texts
        are waited for as well, because the process may end before the thread gets to them. After
        one that could not be written in time, nothing waits."""
        with self._lock:
            self._report_dropped()
        written = Event()
        self._queue.put(written)
        self._is_finished = written.wait(EXIT_SECONDS)

    def resume(self) -> None:
        """Write in the thread again: another server starts in this process."""
        self._is_finished = False

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override] # read-only, as in TextIOWrapper
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override] # as above
        return self._stream.errors

    def _put(self, text: str, dropped_lines: int = 0) -> None:
        self._waiting += len(text)
        self._queue.put((text, dropped_lines))

    def _report_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._put(self.describe_dropped(dropped), dropped)

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, Event):
                item.set()
                continue
            text, dropped_lines = item
            is_written = self._write(text)
            with self._lock:
                self._waiting -= len(text)
                if not is_written:
                    self._dropped += dropped_lines or text.count("\n")

    def _write(self, text: str) -> bool:
        """Returns False if the reader is gone or the disk is full."""
        data = memoryview(text.encode(self.encoding, "backslashreplace"))
        while data:
            try:
                written = self._file.write(data)
            except (OSError, ValueError):  # ValueError: it has been closed
                return False
            if written is None:  # another process has made the pipe non-blocking, and it is full
                select([], [self._file], [], 1)
            else:
                data = data[written:]
        return True
