"""A full log pipe stops neither requests nor the end of the process. Standard streams that were
closed are opened."""

import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app import standard_streams
from app.settings import ROOT
from app.standard_streams import QueuedStream
from tests.support.forked_process import ForkedProcess
from tests.support.limited_service import wait_for
from tests.support.processes import environment, free_port
from tests.support.service_process import SERVE_TIMEOUT_SECONDS, wait_until_ready
from tests.support.settings import CHEAP_HASHING
from tests.support.started_service import (
    HOURPASS,
    Service,
    killed_at_the_end,
    started,
    workers_that_answer,
)

PIPE_BYTES = 4096  # the smallest pipe has room for 16 lines of the request log
LINES = [f"{number:99}\n" for number in range(500)]


class Pipe:
    """A small pipe, and a text stream that writes to it."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.stream = os.fdopen(writer, "w", encoding="utf-8")
        self._queued: list[QueuedStream] = []

    def queued(self, describe_dropped: Callable[[int], str]) -> QueuedStream:
        stream = QueuedStream(self.stream, describe_dropped)
        self._queued.append(stream)
        return stream

    def waiting(self) -> int:
        """Bytes that can be read."""
        (number,) = struct.unpack("i", fcntl.ioctl(self.reader, termios.FIONREAD, bytes(4)))
        return int(number)

    def read(self, size: int) -> str:
        data = b""
        while len(data) < size:
            assert select.select([self.reader], [], [], 20)[0], data[-200:]
            data += os.read(self.reader, size - len(data))
        return data.decode()

    def close(self) -> None:
        os.close(self.reader)
        # A writing thread would soon write to the next pipe, which gets the same number.
        for stream in self._queued:
            stream.finish()
        self.stream.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_the_documentation_has_the_bounds() -> None:
    page = " ".join((ROOT / "docs/operations.md").read_text().split())
    assert f"up to {standard_streams.MAX_WAITING_CHARACTERS // 2**20} MiB of lines wait" in page
    assert f"the lines that wait have {standard_streams.EXIT_SECONDS:.0f} seconds" in page


def describe_dropped(number: int) -> str:
    return f"{number} dropped\n"


def test_a_write_never_waits_and_a_line_says_how_many_are_missing(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standard_streams, "MAX_WAITING_CHARACTERS", 20_000)
    queued = pipe.queued(describe_dropped)

    def write(lines: list[str]) -> None:
        for line in lines:
            queued.write(line)

    write(LINES[:60])
    wait_for(lambda: pipe.waiting() == 40 * 100)  # 40 lines have left the queue
    write(LINES[60:])  # the queue has room for 200
    assert pipe.read(40 * 100) == "".join(LINES[:40])
    wait_for(lambda: pipe.waiting() == 40 * 100)
    write(["too early\n"])  # more than half of the room is still taken
    assert pipe.read(200 * 100) == "".join(LINES[40:240])
    write(["the next\n"])
    assert pipe.read(21) == "261 dropped\nthe next\n"


def test_finish_writes_everything_and_later_lines_are_written_at_once(pipe: Pipe) -> None:
    queued = pipe.queued(describe_dropped)
    for line in LINES[:40]:
        queued.write(line)
    queued.finish()
    assert pipe.waiting() == 40 * 100
    queued.write("later\n")
    assert pipe.waiting() == 40 * 100 + 6
    queued.resume()
    for line in LINES:  # would wait for ever without a thread
        queued.write(line)


def test_a_line_after_the_last_that_had_room_waits_only_for_a_moment(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipe is full, but nothing has waited in vain yet."""
    monkeypatch.setattr(standard_streams, "EXIT_SECONDS", 0.05)
    queued = pipe.queued(describe_dropped)
    queued.write("x" * PIPE_BYTES)
    wait_for(lambda: pipe.waiting() == PIPE_BYTES)
    queued.finish()
    queued.write("the first\n")
    queued.write("the second\n")
    assert pipe.read(PIPE_BYTES + 21) == "x" * PIPE_BYTES + "the first\nthe second\n"


def test_it_has_the_members_of_a_text_stream(pipe: Pipe) -> None:
    queued = pipe.queued(describe_dropped)
    with pytest.raises(TypeError):
        queued.write(b"bytes")  # type: ignore[arg-type] # refused
    assert queued.writable()
    assert not queued.isatty()
    assert (queued.encoding, queued.errors) == ("utf-8", "strict")
    assert queued.fileno() == pipe.stream.fileno()
    print("\udcff", file=queued, flush=True)
    assert pipe.read(7) == "\\udcff\n"


def test_finish_does_not_wait_for_a_reader_that_has_stopped(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standard_streams, "EXIT_SECONDS", 0.05)
    queued = pipe.queued(describe_dropped)
    for _ in range(2):
        for line in LINES:
            queued.write(line)
        queued.finish()
    assert pipe.read(100_000) == "".join(LINES * 2)


def test_lines_that_cannot_be_written_are_counted() -> None:
    counts: list[int] = []

    def note(number: int) -> str:
        counts.append(number)
        return "dropped\n"

    with Path("/dev/full").open("w") as full:
        queued = QueuedStream(full, note)
        for expected in (1, 2, 3):
            queued.write("a line\n")
            queued.finish()
            queued.resume()
            assert sum(counts[-1:]) in (expected - 1, expected)
        queued.write("a line\n")
        assert counts[-1] == 3


def test_a_pipe_that_another_process_made_non_blocking_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.stream.fileno(), False)
    queued = pipe.queued(describe_dropped)
    for line in LINES:
        queued.write(line)
    wait_for(lambda: pipe.waiting() == 40 * 100)
    assert pipe.read(500 * 100) == "".join(LINES)


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "not read"])
def test_the_interpreter_writes_all_lines_or_ends_soon(pipe: Pipe, is_read: bool) -> None:
    code = (
        "import sys; from app import standard_streams; standard_streams.EXIT_SECONDS = 20 * {}; "
        "standard_streams.queue_errors(str); "
        "[print(f'{{n:99}}', file=sys.stderr) for n in range(500)]"
    )
    command = [sys.executable, "-c", code.format(is_read)]
    with subprocess.Popen(command, cwd=ROOT, stderr=pipe.stream) as process:
        if is_read:
            assert pipe.read(500 * 100) == "".join(LINES)
        assert process.wait(SERVE_TIMEOUT_SECONDS) == 0


@contextmanager
def served(pipe: Pipe, directory: Path, *arguments: str) -> Iterator[Service]:
    """A service whose standard error is the pipe."""
    port = free_port()
    writer = Path(f"/proc/{os.getpid()}/fd/{pipe.stream.fileno()}")
    url = f"sqlite:///{directory}/hourpass.db"
    process = ForkedProcess(
        *("serve", "--port", str(port), *arguments),
        directory=str(ROOT),
        variables=environment(**CHEAP_HASHING, DATABASE_URL=url),
        output=writer,
    )
    service = Service(process, f"http://127.0.0.1:{port}", writer)
    with killed_at_the_end(process):
        try:
            service.wait_until_ready()
            yield service
        finally:
            sys.stdout.write(pipe.read(pipe.waiting()))  # pytest shows it if the test fails


def ask_often(service: Service) -> list[str]:
    """The ids of requests whose lines no small pipe has room for."""
    with httpx.Client(base_url=service.base_url) as client:
        answers = [client.get("/token_status/none") for _ in range(50)]
    assert {answer.status_code for answer in answers} == {401}
    return [answer.headers["x-request-id"] for answer in answers]


def test_a_full_log_pipe_stops_neither_requests_nor_sigterm(pipe: Pipe, tmp_path: Path) -> None:
    """With a supervisor and two workers."""
    with served(pipe, tmp_path, "--workers", "2") as service:
        wait_until_ready(service.process, service.base_url, workers=2)
        assert min(workers_that_answer(service.base_url).values()) >= 5
        ask_often(service)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(SERVE_TIMEOUT_SECONDS) == 0


def test_a_log_pipe_that_is_read_late_has_all_lines_in_order(pipe: Pipe, tmp_path: Path) -> None:
    with served(pipe, tmp_path) as service:
        ids = ask_often(service)
        service.process.send_signal(signal.SIGTERM)
        text = b""
        pipe.stream.close()  # so that the end of the process is the end of the pipe
        while part := os.read(pipe.reader, 65536):
            text += part
        assert service.process.wait(SERVE_TIMEOUT_SECONDS) == -signal.SIGTERM
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["request_id"] for line in lines if line["message"] == "request"] == ids
    assert lines[-1]["message"].startswith("Finished server process")
    [starting] = [line for line in lines if line["message"] == "Starting"]
    assert 1 <= starting["hashing_threads"] <= 8
    times = [line["time"] for line in lines if line["message"] != "request"]
    assert times == sorted(times)


def test_closed_standard_streams_are_opened_and_ctrl_c_stops_the_service(tmp_path: Path) -> None:
    """Otherwise the service would end silently, or a connection would become its standard error."""
    closing = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *HOURPASS, "serve", "--workers", "1")
    url = f"sqlite:///{tmp_path}/hourpass.db"
    with started(tmp_path, *closing, DATABASE_URL=url) as service:
        service.wait_until_ready()
        streams = [Path(f"/proc/{service.process.pid}/fd/{number}") for number in range(3)]
        assert [str(stream.readlink()) for stream in streams] == [os.devnull] * 3
        assert service.interrupt() == 0
