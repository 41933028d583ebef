"""Runs uvicorn for `hourpass serve`."""

import logging
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from app.server.connections import backlog
from app.server.listeners import bind, deal
from app.server.open_files import raise_open_files
from app.server.protocol import HttpProtocol
from app.server.reports import Report, Reports, set_own
from app.server.server import Server
from app.server.supervisor import Supervisor
from app.server.systemd import Notifier, inherited_listeners

_log = logging.getLogger("hourpass")


def serve(host: str, port: int, workers: int, reports: Reports | None = None) -> None:
    """Serve until interrupted, on the sockets of systemd or on this address. Logs an error and
    exits if it cannot. `reports` gets the reports of the workers."""
    raise_open_files()
    notifier = Notifier()
    copies = workers if sys.platform == "linux" else 1
    listeners = deal(_inherited() or _listeners(host, port, copies), workers)
    options: dict[str, Any] = {
        "workers": workers,
        "http": HttpProtocol,
        "ws": "none",
        "log_config": None,  # http/access_log.py configures uvicorn's loggers
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "backlog": backlog(),
        "timeout_graceful_shutdown": 30,
        # The supervisor kills a worker that does not answer in time. On a busy machine, the imports
        # of a starting worker take longer than uvicorn's 5 seconds. While it waits for the answer,
        # the supervisor does not handle signals.
        "timeout_worker_healthcheck": 20,
    }
    config = uvicorn.Config("app.main:app", **options)
    if workers > 1:
        Supervisor(config, listeners, notifier, reports).run()
        return
    if reports:
        report = Report()
        set_own(report)
        reports.add(report)
    _stop_on_hangup()
    server = Server(config, notifier)
    with suppress(KeyboardInterrupt):  # uvicorn raises it again, after it has stopped
        server.run(listeners[0])
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def _inherited() -> list[socket.socket]:
    try:
        listeners = inherited_listeners()
    except (OSError, ValueError) as error:
        _log.error("Cannot use a socket of the service manager (LISTEN_FDS): %s", error)
        sys.exit(STARTUP_FAILURE)
    for url in dict.fromkeys(map(_url_of, listeners)):
        _log.info("Starting on %s, a socket of the service manager", url)
    return listeners


def _listeners(host: str, port: int, copies: int) -> list[socket.socket]:
    try:
        listeners = bind(host, port, copies)
    except OSError as error:
        _log.error("Cannot listen on %s:%d: %s", _in_url(host), port, error.strerror)
        sys.exit(STARTUP_FAILURE)
    port = listeners[0].getsockname()[1]
    _log.info("Starting on http://%s:%d (press Ctrl+C to stop)", _in_url(host), port)
    return listeners


def _url_of(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"http://{_in_url(host)}:{port}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _stop_on_hangup() -> None:
    """End as on SIGTERM. By default, SIGHUP would end the process in the middle of requests. With
    several workers, it restarts them."""
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return  # started with nohup

    def stop(*_: object) -> None:
        _log.info("Received SIGHUP, stopping")
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGHUP, stop)
