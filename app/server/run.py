"""Runs uvicorn for `hourpass serve`."""

import logging
import signal
import socket
import sys
from typing import Any

import uvicorn

from app.server.connections import backlog, raise_open_files
from app.server.protocol import HttpProtocol
from app.server.supervisor import Supervisor

_log = logging.getLogger("hourpass")


def serve(host: str, port: int, workers: int) -> None:
    """Serve until interrupted. Logs an error and exits if it cannot listen on the address."""
    raise_open_files()
    options: dict[str, Any] = {
        "host": host,
        "port": port,
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
    if workers == 1 or sys.platform != "linux":
        _stop_on_hangup()
        uvicorn.run("app.main:app", **options)
    else:
        config = uvicorn.Config("app.main:app", **options)
        Supervisor(config, [_ReusePortSocket(fileno=config.bind_socket().detach())]).run()


def _stop_on_hangup() -> None:
    """End as on SIGTERM. By default, SIGHUP would end the process in the middle of requests. With
    several workers, it restarts them."""
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return  # started with nohup

    def stop(*_: object) -> None:
        _log.info("Received SIGHUP, stopping")
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGHUP, stop)


class _ReusePortSocket(socket.socket):
    """A socket that each worker opens again for the same address (SO_REUSEPORT), so that Linux
    distributes the connections. On one shared socket, the worker that wakes first accepts most."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Set after bind(), which therefore fails if another service uses the address.
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    def __reduce__(self) -> Any:
        return _bind_again, (self.family, self.getsockname())


def _bind_again(family: int, address: Any) -> socket.socket:
    another = socket.socket(family)
    another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    another.bind(address)
    return another
