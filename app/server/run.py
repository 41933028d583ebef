"""uvicorn, as `hourpass serve` wants it."""

import socket
import sys
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from app.server.connections import backlog, raise_open_files
from app.server.protocol import HttpProtocol


def serve(host: str, port: int, workers: int) -> None:
    """Until interrupted. Exits with a line in the log if the address cannot be had."""
    raise_open_files()
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "workers": workers,
        "http": HttpProtocol,
        "ws": "none",
        "log_config": None,  # logs.py sends uvicorn's lines where ours go
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
        uvicorn.run("app.main:app", **options)
    else:
        config = uvicorn.Config("app.main:app", **options)
        Multiprocess(config, [_Shared(fileno=config.bind_socket().detach())]).run()


class _Shared(socket.socket):
    """An address at which each worker that is handed it listens by itself: Linux deals the
    connections out. From one socket for all, whoever wakes first would take most of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Only now that it is bound: as long as another service is there, that was refused.
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    def __reduce__(self) -> Any:
        return _listen_as_well, (self.family, self.getsockname())


def _listen_as_well(family: int, address: Any) -> socket.socket:
    another = socket.socket(family)
    another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    another.bind(address)
    return another
