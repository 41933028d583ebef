"""The service in a process of its own."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from app.settings import ROOT
from tests.support.forked_process import ForkedProcess
from tests.support.processes import environment, free_port
from tests.support.settings import CHEAP_HASHING

SERVE_TIMEOUT_SECONDS = 60
# The databases to copy are of the day at which the tests' clock begins. A served process has the
# real time, at which the key must not be due for replacement, nor the audit log for its purge.
_AGELESS = {"KEY_ROTATION_DAYS": "0", "AUDIT_DAYS": "36500"}
# The default names the port, and services that share a database accept each other's tokens.
_ISSUER = {"ISSUER": "http://localhost:8000"}


@contextmanager
def serving(database_url: str, *arguments: str, **settings: str) -> Iterator[str]:
    """`hourpass serve` in a process of its own. Yields its base URL."""
    with serving_process(database_url, *arguments, **settings) as (_, base_url):
        yield base_url


@contextmanager
def serving_process(
    database_url: str, *arguments: str, **settings: str
) -> Iterator[tuple[ForkedProcess, str]]:
    """The same, for tests that send signals."""
    port = free_port()
    workers = int(arguments[arguments.index("--workers") + 1]) if "--workers" in arguments else 1
    defaults = {**CHEAP_HASHING, **_AGELESS, **_ISSUER}
    variables = environment(DATABASE_URL=database_url, **{**defaults, **settings})
    command = ("serve", "--port", str(port), *arguments)
    process = ForkedProcess(*command, directory=str(ROOT), variables=variables)
    base_url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(process, base_url, workers)
        yield process, base_url
    finally:
        process.terminate()
        try:
            process.wait(SERVE_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@contextmanager
def two_services(database_url: str, **settings: str) -> Iterator[tuple[str, str]]:
    """Two processes with one database, as two workers are, but each with its own base URL: a test
    decides which of them it asks."""
    with serving(database_url, **settings) as first, serving(database_url, **settings) as second:
        yield first, second


def wait_until_ready(
    process: "subprocess.Popen[bytes] | ForkedProcess", base_url: str, workers: int
) -> None:
    """Until every worker has answered: each begins its request ids with a text of its own."""
    deadline = time.monotonic() + SERVE_TIMEOUT_SECONDS
    ready: set[str] = set()
    limits = httpx.Limits(max_keepalive_connections=0)  # so that any worker may answer the next one
    # To read the certificates takes longer than to ask.
    with httpx.Client(verify=False, limits=limits) as client:
        while time.monotonic() < deadline:
            assert process.poll() is None, "the service ended instead of serving"
            try:
                response = client.get(f"{base_url}/readyz")
                if response.status_code == 200:
                    ready.add(response.headers["x-request-id"].partition("-")[0])
            except httpx.TransportError:
                pass
            if len(ready) == workers:
                return
            time.sleep(0.05)
    raise AssertionError("the service did not become ready")
