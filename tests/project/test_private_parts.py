"""The private parts of other libraries that the service builds on, all in one place.

uvicorn, aiosqlite and asyncpg promise nothing about them. If this test fails after an upgrade, read
what has changed there, adapt the module of ours that is named, and then this table.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg
import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from app.settings import ROOT

PROTOCOL = "app/server/protocol.py and request_parser.py"
TRANSPORT = "app/server/transport.py"
RUN = "app/server/run.py"
SUPERVISOR = "app/server/supervisor.py"
SERVER = "app/server/server.py"
SQLITE = "app/database/sqlite_driver.py"
POSTGRES = "app/database/postgres_driver.py"

# Methods that are overridden or called: with their parameters.
METHODS: list[tuple[Callable[..., Any], str, str]] = [
    (HttpToolsProtocol.__init__, "self, config, server_state, app_state, _loop", PROTOCOL),
    (HttpToolsProtocol.connection_made, "self, transport", PROTOCOL),
    (HttpToolsProtocol.connection_lost, "self, exc", PROTOCOL),
    (HttpToolsProtocol.data_received, "self, data", PROTOCOL),
    (HttpToolsProtocol.on_message_begin, "self", PROTOCOL),
    (HttpToolsProtocol.on_header, "self, name, value", PROTOCOL),
    (HttpToolsProtocol.on_headers_complete, "self", PROTOCOL),
    (HttpToolsProtocol.on_body, "self, body", PROTOCOL),
    (HttpToolsProtocol.on_message_complete, "self", PROTOCOL),
    (HttpToolsProtocol.on_response_complete, "self", PROTOCOL),
    (HttpToolsProtocol._start_asgi_task, "self, cycle, app", PROTOCOL),
    (HttpToolsProtocol.pause_writing, "self", PROTOCOL),
    (HttpToolsProtocol.resume_writing, "self", PROTOCOL),
    (HttpToolsProtocol.shutdown, "self", PROTOCOL),
    (FlowControl.__init__, "self, transport", TRANSPORT),
    (FlowControl.pause_reading, "self", TRANSPORT),
    (FlowControl.resume_reading, "self", TRANSPORT),
    (Multiprocess.__init__, "self, config, sockets", RUN),
    (Multiprocess.init_processes, "self", SUPERVISOR),
    (Multiprocess.restart_all, "self", SUPERVISOR),
    (Multiprocess.keep_subprocess_alive, "self", SUPERVISOR),
    (Multiprocess.terminate_all, "self", SUPERVISOR),
    (Multiprocess.handle_ttin, "self", SUPERVISOR),
    (Multiprocess.handle_ttou, "self", SUPERVISOR),
    (Process.__init__, "self, config, sockets", SUPERVISOR),
    (Process.is_alive, "self, timeout", SUPERVISOR),
    (Process.is_ready, "self, timeout", SUPERVISOR),
    (Process.terminate, "self", SUPERVISOR),
    (Process.join, "self", SUPERVISOR),
    (Process.kill, "self", SUPERVISOR),
    (Server.__init__, "self, config", SERVER),
    (Server.startup, "self, sockets", SERVER),
    (Server.shutdown, "self, sockets", SERVER),
    (aiosqlite.Connection.__init__, "self, connector, iter_chunk_size, loop", SQLITE),
    (aiosqlite.Connection.commit, "self", SQLITE),
    (aiosqlite.Connection.rollback, "self", SQLITE),
    (aiosqlite.Connection._execute, "self, fn, args, kwargs", SQLITE),
    (aiosqlite.Cursor.execute, "self, sql, parameters", SQLITE),
    (aiosqlite.Cursor.executemany, "self, sql, parameters", SQLITE),
    (aiosqlite.Cursor.fetchall, "self", SQLITE),
    (aiosqlite.Cursor.close, "self", SQLITE),
]

# Attributes that are read or set: each is assigned in the constructor of its class.
ATTRIBUTES: list[tuple[type, str, str]] = [
    (HttpToolsProtocol, "app", PROTOCOL),
    (HttpToolsProtocol, "client", PROTOCOL),
    (HttpToolsProtocol, "cycle", PROTOCOL),
    (HttpToolsProtocol, "expect_100_continue", PROTOCOL),
    (HttpToolsProtocol, "flow", PROTOCOL),
    (HttpToolsProtocol, "headers", PROTOCOL),
    (HttpToolsProtocol, "loop", PROTOCOL),
    (HttpToolsProtocol, "parser", PROTOCOL),
    (HttpToolsProtocol, "pipeline", PROTOCOL),
    (HttpToolsProtocol, "scope", PROTOCOL),
    (HttpToolsProtocol, "server_state", PROTOCOL),
    (HttpToolsProtocol, "transport", PROTOCOL),
    (RequestResponseCycle, "body", PROTOCOL),
    (RequestResponseCycle, "disconnected", PROTOCOL),
    (RequestResponseCycle, "keep_alive", PROTOCOL),
    (RequestResponseCycle, "message_event", PROTOCOL),
    (RequestResponseCycle, "more_body", PROTOCOL),
    (RequestResponseCycle, "on_response", PROTOCOL),
    (RequestResponseCycle, "response_complete", PROTOCOL),
    (RequestResponseCycle, "response_started", PROTOCOL),
    (RequestResponseCycle, "scope", PROTOCOL),
    (FlowControl, "read_paused", TRANSPORT),
    (FlowControl, "write_paused", TRANSPORT),
    (aiosqlite.Connection, "_thread", SQLITE),
    (aiosqlite.Connection, "_connection", SQLITE),
    (aiosqlite.Cursor, "_cursor", SQLITE),
    (asyncpg.Connection, "_cancellations", POSTGRES),
    (asyncpg.Connection, "_transport", POSTGRES),
]


@pytest.mark.parametrize(
    ("method", "parameters", "ours"), METHODS, ids=[method.__qualname__ for method, *_ in METHODS]
)
def test_a_method_still_has_its_parameters(
    method: Callable[..., Any], parameters: str, ours: str
) -> None:
    now = ", ".join(inspect.signature(method).parameters)
    assert now == parameters, f"{method.__module__} has changed: read {ours} again"


@pytest.mark.parametrize(
    ("class_", "name", "ours"),
    ATTRIBUTES,
    ids=[f"{class_.__name__}.{name}" for class_, name, _ in ATTRIBUTES],
)
def test_an_attribute_is_still_there(class_: type, name: str, ours: str) -> None:
    constructor = inspect.getsource(class_.__init__)  # type: ignore[misc] # of this class
    assert re.search(rf"\bself\.{name}\b.*=", constructor), (
        f"{class_.__module__} has changed: read {ours} again"
    )


def test_no_other_module_builds_on_private_parts() -> None:
    """Of uvicorn and aiosqlite, that is. Subclasses of other libraries' classes are public."""
    allowed = {"batch.py", "protocol.py", "request_parser.py", "run.py", "sqlite_driver.py"}
    allowed |= {"server.py", "supervisor.py", "transport.py"}
    found = {
        path.name
        for path in Path(ROOT / "app").rglob("*.py")
        if re.search(r"^(from|import) (uvicorn|aiosqlite)\b", path.read_text(), re.MULTILINE)
    }
    assert found <= allowed
