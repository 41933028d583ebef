"""systemd accepts the units of examples/systemd, and finds that they leave little to an intruder.

No systemd runs here: its own checks do, and test_restarts.py starts the service as systemd does.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.settings import ROOT
from tests.support.proxies import EXAMPLES

UNITS = EXAMPLES / "systemd"
SERVICE = (UNITS / "hourpass.service").read_text()
GRACE_SECONDS = 30  # of app/server/run.py
MOST_EXPOSED = 15  # tenths; 13 of them are for what the service needs, such as the network


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a program that exists."""
    for unit in UNITS.iterdir():
        shutil.copy(unit, tmp_path)
    command = SERVICE.replace("ExecStart=/opt/hourpass/bin/hourpass", "ExecStart=/bin/true")
    (tmp_path / "hourpass.service").write_text(command)
    return tmp_path


def analyze(*arguments: str, directory: Path) -> str:
    command = ["systemd-analyze", *arguments, "./hourpass.service"]
    run = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stderr


def test_systemd_has_nothing_to_say_about_the_units(units: Path) -> None:
    warnings = analyze("verify", "./hourpass.socket", directory=units)
    assert [line for line in warnings.splitlines() if "hourpass" in line] == []


def test_a_misspelt_line_would_be_noticed(units: Path) -> None:
    unit = units / "hourpass.service"
    unit.write_text(unit.read_text().replace("UMask=", "Umask="))
    assert "hourpass.service" in analyze("verify", "./hourpass.socket", directory=units)


def test_the_service_has_few_rights(units: Path) -> None:
    analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", directory=units)


def test_no_secret_is_in_the_environment_of_the_service() -> None:
    assert "EnvironmentFile" not in SERVICE
    found = dict(re.findall(r"^Environment=(\w+)=(.*)$", SERVICE, re.MULTILINE))
    directory, file = "/var/lib/hourpass", "/etc/hourpass/hourpass.env"
    assert found == {"ENV_FILE": file, "HOURPASS_HOME": directory}
    assert f"\nStateDirectory={directory.removeprefix('/var/lib/')}\n" in SERVICE
    page = (ROOT / "docs/deployment.md").read_text()
    assert f"HOURPASS_HOME={directory} ENV_FILE={file}" in page


def test_systemd_waits_for_requests_that_are_under_way() -> None:
    seconds = int(re.findall(r"^TimeoutStopSec=(\d+)$", SERVICE, re.MULTILINE)[0])
    assert seconds > GRACE_SECONDS
