"""The guard as others get it: a wheel of its own, without the service and without FastAPI."""

import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.settings import ROOT
from hourpass import Guard
from tests.conftest import environment
from tests.court import Court, holding_court

# The packages that the wheel names, and no others: above all neither FastAPI nor the service.
NEEDED = ("httpx", "httpcore", "h11", "anyio", "idna", "certifi", "sniffio", "typing_extensions")
NEEDED_FOR_KEYS = ("jwt", "cryptography", "cffi", "_cffi_backend", "pycparser")
SCRIPT = """
import sys
from hourpass import Guard, InvalidTokenError
url, token = sys.argv[1:]
with Guard(url) as guard:
    print(guard.check(token).username)
    try:
        guard.check(token[:-8] + "AAAAAAAA")
    except InvalidTokenError as error:
        print(error.status)
print(sorted({"fastapi", "starlette", "app"} & sys.modules.keys()))
"""


@pytest.fixture(scope="module")
def court(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Court]:
    database = tmp_path_factory.mktemp("package") / "hourpass.db"
    with holding_court(f"sqlite:///{database}") as court:
        yield court


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what `pip install ./guard` would put there."""
    place = tmp_path_factory.mktemp("site-packages")
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(place)]
    subprocess.run([*command, *options, str(ROOT / "guard")], check=True, stderr=subprocess.PIPE)
    installed = Path(sysconfig.get_path("platlib"))
    for name in (*NEEDED, *NEEDED_FOR_KEYS):
        for found in (*installed.glob(name), *installed.glob(f"{name}.*")):
            (place / found.name).symlink_to(found)
    return place


def test_the_wheel_needs_neither_the_service_nor_fastapi(court: Court, place: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-S", "-W", "error", "-c", SCRIPT, court.url, court.new_token()],
        env=environment(PYTHONPATH=str(place)),
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    username, status, imported = ran.stdout.splitlines()
    assert username
    assert (status, imported) == ("401", "[]")


def test_the_wheel_is_typed_and_says_what_it_needs(place: Path) -> None:
    assert (place / "hourpass" / "py.typed").exists()
    (metadata,) = place.glob("hourpass-*.dist-info/METADATA")
    required = [line for line in metadata.read_text().splitlines() if line.startswith("Requires-D")]
    assert len([line for line in required if "extra ==" not in line]) == 2


def test_the_readme_shows_a_plain_check(court: Court) -> None:
    readme = (ROOT / "guard" / "README.md").read_text()
    (block,) = re.findall(
        r"^```python\n([^`]*?^with Guard.*?)^```$", readme, re.MULTILINE | re.DOTALL
    )
    script = f"token = {court.new_token()!r}\n{block}print(type(user).__name__)"
    ran = subprocess.run(
        [sys.executable, "-c", script.replace("http://127.0.0.1:8000", court.url)],
        env=environment(PYTHONPATH=os.environ.get("PYTHONPATH", "")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("User\n", "")


def ask(guard: Guard, token: str) -> tuple[int, str, float]:
    """In a process of its own."""
    with guard:
        return os.getpid(), guard.check(token).username, guard.believed_for.total_seconds()


def test_a_guard_can_be_sent_to_another_process(court: Court) -> None:
    """As Ray Serve and multiprocessing send what a worker needs."""
    trust_for = timedelta(minutes=7)
    with Guard(court.url, on_outage="trust", trust_for=trust_for) as guard:
        token = court.new_token()
        here = ask(pickle.loads(pickle.dumps(guard)), token)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            there = pool.apply(ask, (guard, token))
        assert guard.check(token).username == here[1]
    assert here[0] != there[0]
    assert here[1:] == there[1:]
    assert here[2] == trust_for.total_seconds()


def test_a_copy_in_another_process_is_as_strict() -> None:
    arguments: dict[str, Any] = {
        "audience": "another-api",
        "issuer": "https://camelot.example",
        "on_outage": "trust",
        "trust_for": timedelta(minutes=7),
        "patience": timedelta(seconds=3),
    }
    guard = Guard("https://hourpass.example", **arguments)
    copy: Guard = pickle.loads(pickle.dumps(guard))
    for name in ("url", "audience", "issuer", "believed_for", "patience"):
        assert getattr(copy, name) == getattr(guard, name), name
    assert (copy.audience, copy.issuer) == ("another-api", "https://camelot.example")
