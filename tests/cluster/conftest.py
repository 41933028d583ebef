"""The running example, and its clients."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from app.settings import ROOT
from examples.cluster.members import Cluster
from tests.cluster.load import Clients
from tests.support.database_templates import in_memory
from tests.support.processes import environment

START_SECONDS = 200
LINES = 20  # that are shown of each log if a test fails

Report = Callable[[str], None]


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The example, on a network and in a folder of its own."""
    place = Path(tempfile.mkdtemp(prefix="hourpass-cluster-", dir=in_memory()))
    place.chmod(0o711)  # PostgreSQL runs as another user if root starts it
    number = os.getpid()
    cluster = Cluster(f"127.{100 + number % 100}.{number // 100 % 250}", place / "cluster")
    variables = environment(CLUSTER_NETWORK=cluster.network, CLUSTER_FOLDER=str(cluster.folder))
    command = [sys.executable, "-m", "examples.cluster.start"]
    output = (place / "output").open("w+")
    process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_SECONDS
        while "Ready" not in (place / "output").read_text():
            assert process.poll() is None, (place / "output").read_text()
            assert time.monotonic() < deadline, "the example did not start"
            time.sleep(0.2)
        yield cluster
        if request.session.testsfailed:
            show_logs(cluster)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        output.close()
        left = list(cluster.folder.parent.iterdir())
        shutil.rmtree(place)
    assert process.returncode == 0
    assert left == [place / "output"]


def show_logs(cluster: Cluster) -> None:
    """The errors of the hosts, and the ends of all logs."""
    for path in sorted(cluster.folder.glob("*.log")):
        lines = path.read_text(errors="replace").splitlines()
        errors = [line for line in lines if '"level": "error"' in line]
        print(f"{path.name}:", *errors[:LINES], *lines[-LINES:], sep="\n  ")


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    def show(line: str) -> None:
        with capsys.disabled():
            print(f"\n  {line}", end="", flush=True)

    return show


@pytest.fixture
async def clients(cluster: Cluster) -> AsyncIterator[Clients]:
    clients = Clients(cluster, settings_of(cluster)["FIRST_ADMIN_PASSWORD"])
    await clients.log_in_admin()
    yield clients
    await clients.close()


def settings_of(cluster: Cluster) -> dict[str, str]:
    lines = (cluster.folder / "hourpass.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
