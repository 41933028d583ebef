"""PgBouncer in front of the tests' PostgreSQL, with `pool_mode = transaction`."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import free_port
from tests.support.proxies import SEARCH_PATH, START_TIMEOUT_SECONDS

_CONFIGURATION = """[databases]
* = host={directory}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = users.txt
pool_mode = transaction
default_pool_size = 3
{more}
"""


@contextmanager
def pgbouncer(directory: Path, socket_directory: str, more: str = "") -> Iterator[int]:
    """Its port. Few connections to the server, so that clients share them."""
    port = free_port()
    (directory / "pgbouncer.ini").write_text(
        _CONFIGURATION.format(directory=socket_directory, port=port, more=more)
    )
    (directory / "users.txt").write_text('"postgres" ""\n')
    found = shutil.which("pgbouncer", path=SEARCH_PATH)
    assert found, "pgbouncer is not installed; see CONTRIBUTING.md"
    output = directory / "pgbouncer.output"
    command = [found, "pgbouncer.ini"]
    if os.geteuid() == 0:  # it refuses to run as root, and only PostgreSQL's user sees the socket
        directory.chmod(0o755)
        owner = Path(socket_directory).stat().st_uid
        command = ["setpriv", f"--reuid={owner}", "--regid=nogroup", "--clear-groups", *command]
    with output.open("wb") as writer:
        process = subprocess.Popen(command, cwd=directory, stdout=writer, stderr=writer)
    try:
        _wait_until_ready(process, port, output)
        yield port
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_SECONDS)


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int, output: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, output.read_text()[-2000:]
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(output.read_text()[-2000:])
