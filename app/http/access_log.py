"""The format of log lines: text on a terminal, JSON elsewhere. Neither contains secrets.

A line has the fields of `extra`, and the id of the request. Of an exception it has the type and
where it was raised, but not the text, which may quote a password or an SQL parameter.
"""

import asyncio
import json
import logging
import re
import sys
import traceback
from contextvars import Context, ContextVar
from datetime import UTC, datetime
from functools import lru_cache, partial
from time import time
from types import TracebackType
from typing import NamedTuple, TextIO

from app import standard_streams
from app.settings import Settings
from hourpass.api_keys import PATTERN as API_KEY_PATTERN

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

# Attributes that the standard library sets on every record. All others come from `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "color_message"}

# The service logs neither tokens nor API keys. This redacts those that a library might log, such as
# one in a path.
_TOKEN = re.compile(rf"eyJ[\w-]+(\.[\w-]*)*|{API_KEY_PATTERN}|(?<=/token_status/)[^{{\s\"'\\]+")

_FLUSH_SECONDS = 0.05

ExceptionInfo = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


class _Formatter(logging.Formatter):
    def formatException(self, ei: ExceptionInfo) -> str:  # noqa: N802 - overrides logging.Formatter
        """The types and places of the exception and its causes, without their texts."""
        parts = []
        error = ei[1]
        while error is not None:
            frames = traceback.extract_tb(error.__traceback__)
            places = [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
            parts.append("\n".join([type(error).__qualname__, *places]))
            hidden = None if error.__suppress_context__ else error.__context__
            error = error.__cause__ or hidden
        return "\ncaused by ".join(parts)

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if "request_id" not in fields and (current := request_id.get()):
            fields["request_id"] = current
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return fields


class JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self.fields(record),
        }
        return _TOKEN.sub("[redacted]", json.dumps(line, default=str))


class TextFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        exception = fields.pop("exception", None)
        moment = self.formatTime(record, "%H:%M:%S")
        line = " ".join(
            [moment, f"{record.levelname:<7}", record.getMessage()]
            + [f"{name}={value}" for name, value in fields.items() if value is not None]
        )
        # A line break in a value must not forge another line.
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
        return _TOKEN.sub("[redacted]", f"{line}\n{exception}" if exception else line)


class LoggedRequest(NamedTuple):
    """The fields of a request's log line. They are not escaped, so the caller must ensure that they
    contain nothing to escape."""

    id: str
    method: str
    route: str | None
    status: int
    milliseconds: float
    user_id: int | None

    def as_text(self) -> str:
        moment = datetime.now().astimezone().strftime("%H:%M:%S")
        return (
            f"{moment} INFO    request method={self.method} "
            f"{f'route={self.route} ' if self.route else ''}status={self.status} "
            f"ms={self.milliseconds:.2f} {f'user_id={self.user_id} ' if self.user_id else ''}"
            f"request_id={self.id}"
        )

    def as_json(self) -> str:
        now = time()
        moment = f"{_second(int(now))}.{int(now % 1 * 1000):03d}+00:00"
        route = f'"{self.route}"' if self.route else "null"
        return (
            f'{{"time": "{moment}", "level": "info", "logger": "hourpass.request", '
            f'"message": "request", "method": "{self.method}", "route": {route}, '
            f'"status": {self.status}, "ms": {self.milliseconds:.2f}, '
            f'"user_id": {self.user_id or "null"}, "request_id": "{self.id}"}}'
        )


@lru_cache(maxsize=1)
def _second(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class RequestLog:
    """Writes one line per request. It formats them itself, and writes many at a time: the logging
    module would take as long as the rest of a token check. If the process is killed, the lines of
    the last 50 ms are lost."""

    def __init__(self) -> None:
        self._enabled = False
        self._is_verbose = False
        self._as_text = False
        self._lines: list[str] = []

    def configure(self, *, enabled: bool, as_text: bool, is_verbose: bool = False) -> None:
        self._enabled = enabled
        self._as_text = as_text
        self._is_verbose = is_verbose

    def write(self, request: LoggedRequest) -> None:
        if not self._enabled:
            return
        if not self._lines:
            asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)
        self._lines.append(request.as_text() if self._as_text else request.as_json())

    def write_routine(self, request: LoggedRequest) -> None:
        """At level debug: a request that machines repeat all the time."""
        if self._is_verbose:
            self.write(request)
            for info, debug in (("INFO ", "DEBUG"), ('"level": "info"', '"level": "debug"')):
                self._lines[-1] = self._lines[-1].replace(info, debug, 1)

    def flush(self) -> None:
        if self._lines:
            lines, self._lines = self._lines, []
            sys.stderr.write("\n".join([*lines, ""]))
            sys.stderr.flush()


request_log = RequestLog()


class _Handler(logging.StreamHandler[TextIO]):
    """A class of its own, so that configure() can replace the handler of an earlier call."""


def configure(settings: Settings) -> None:
    """Write all log lines, uvicorn's included, to standard error through one handler. A thread
    writes them, until finish() is called."""
    standard_streams.open_closed()
    as_text = settings.log_format == "text" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    request_log.configure(
        enabled=settings.log_level in ("debug", "info"),
        as_text=as_text,
        is_verbose=settings.log_level == "debug",
    )
    formatter = TextFormatter() if as_text else JsonFormatter()
    standard_streams.queue_errors(partial(_describe_dropped, formatter))
    handler = _Handler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [other for other in root.handlers if not isinstance(other, _Handler)]
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.error").addFilter(_is_no_hang_up)
    # At debug level, aiosqlite logs the parameters of statements, password hashes among them.
    logging.getLogger("aiosqlite").setLevel(logging.INFO)
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)  # a line per plugin
    # uvicorn's access log has paths, and the path of /token_status/{token} has a token.
    # middleware.py writes one line per request instead.
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False


def finish() -> None:
    """Write the waiting lines. Later ones are written at once."""
    request_log.flush()
    standard_streams.finish_errors()


def _is_no_hang_up(record: logging.LogRecord) -> bool:
    """False for plain uvicorn's error about a response that the client did not wait for.
    middleware.py logs it as 499, and logs every other reason of an incomplete response."""
    return not str(record.msg).startswith("ASGI callable returned without completing")


def _describe_dropped(formatter: logging.Formatter, number: int) -> str:
    message = "Dropped log lines, because standard error was not read in time"
    record = logging.getLogger("hourpass").makeRecord(
        "hourpass", logging.ERROR, "", 0, message, (), None, extra={"lines": number}
    )
    # In an empty context: this line does not belong to the request that happens to log next.
    return f"{Context().run(formatter.format, record)}\n"
