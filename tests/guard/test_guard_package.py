"""The package as it is published: a wheel without the service and without FastAPI."""

import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import sysconfig
from contextlib import chdir
from datetime import timedelta
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from app.settings import ROOT
from hourpass import Guard, User
from hourpass.guard import (
    invalid_tokens,
    outage,
    revocation_feed,
    service_client,
    unknown_kids,
    verification_state,
    waits,
)
from hourpass.testing import Issuer
from tests.support.processes import environment
from tests.support.running_service import RunningService

pytest_plugins = ["tests.support.service_fixtures"]

# The packages that the wheel names, and no others: neither FastAPI, nor an HTTP library, nor the
# service.
NEEDED = ("jwt", "cryptography", "cffi", "_cffi_backend", "pycparser")
SCRIPT = """
import sys
from hourpass import Guard, HourpassAuth, InvalidTokenError
url, username, password = sys.argv[1:]
with HourpassAuth(url, username, password) as auth, Guard(url) as guard:
    token = auth.token()
    print(guard.check(token).username)
    try:
        guard.check(token[:-8] + "AAAAAAAA")
    except InvalidTokenError as error:
        print(error.status)
print(sorted({"app", "fastapi", "httpx", "pydantic", "requests", "starlette"} & sys.modules.keys()))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what `pip install ./guard` would put there: pip asks the build backend for
    a wheel and unpacks it."""
    from hatchling.build import build_wheel  # here, because each test process imports this file

    place, dist = tmp_path_factory.mktemp("site-packages"), tmp_path_factory.mktemp("dist")
    with chdir(ROOT / "guard"):
        wheel = build_wheel(str(dist))
    ZipFile(dist / wheel).extractall(place)
    installed = Path(sysconfig.get_path("platlib"))
    for name in NEEDED:
        for found in (*installed.glob(name), *installed.glob(f"{name}.*")):
            (place / found.name).symlink_to(found)
    return place


def test_guard_and_client_need_neither_the_service_nor_fastapi_nor_an_http_library(
    shared_service: RunningService, place: Path
) -> None:
    person = shared_service.new_user()
    arguments = [shared_service.url, person["username"], person["password"]]
    ran = subprocess.run(
        [sys.executable, "-S", "-W", "error", "-c", SCRIPT, *arguments],
        env=environment(PYTHONPATH=str(place)),
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [person["username"], "401", "[]"]


def test_the_wheel_is_typed_and_says_what_it_needs(place: Path) -> None:
    assert (place / "hourpass" / "py.typed").exists()
    (metadata,) = place.glob("hourpass-*.dist-info/METADATA")
    required = [line for line in metadata.read_text().splitlines() if line.startswith("Requires-D")]
    assert len([line for line in required if "extra ==" not in line]) == 1


def test_the_readme_shows_a_plain_check(
    shared_service: RunningService, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "guard" / "README.md").read_text()
    (block,) = re.findall(
        r"^```python\n([^`]*?^with Guard.*?)^```$", readme, re.MULTILINE | re.DOTALL
    )
    names: dict[str, Any] = {"token": shared_service.new_token()}
    exec(block.replace("http://127.0.0.1:8000", shared_service.url), names)
    assert type(names["user"]) is User
    assert capsys.readouterr() == ("", "")


def ask(guard: Guard, token: str) -> tuple[int, str, float]:
    """In a process of its own."""
    with guard:
        return os.getpid(), guard.check(token).username, guard.fresh_for.total_seconds()


def test_a_guard_can_be_sent_to_another_process(shared_service: RunningService) -> None:
    """As Ray Serve and multiprocessing send what a worker needs."""
    trust_for = timedelta(minutes=7)
    with Guard(shared_service.url, on_outage="trust", trust_for=trust_for) as guard:
        token = shared_service.new_token()
        here = ask(pickle.loads(pickle.dumps(guard)), token)
        with multiprocessing.get_context("forkserver").Pool(1) as pool:
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
        "timeout": timedelta(seconds=3),
    }
    guard = Guard("https://hourpass.example", **arguments)
    copy: Guard = pickle.loads(pickle.dumps(guard))
    for name in ("url", "audience", "issuer", "fresh_for", "timeout"):
        assert getattr(copy, name) == getattr(guard, name), name
    assert (copy.audience, copy.issuer) == ("another-api", "https://camelot.example")


def test_the_former_names_still_work() -> None:
    guard = Guard("https://hourpass.example", patience=timedelta(seconds=3))
    assert guard.timeout == Guard("https://hourpass.example", timeout=timedelta(seconds=3)).timeout
    assert Issuer.stand_in_for == Issuer.attach
    assert Issuer.let_pass == Issuer.advance_time


# What guard/README.md says, with each number in braces, and what the code has for it.
NUMBERS: list[tuple[str, tuple[float, ...]]] = [
    ("every token with 503 after {10} seconds", (revocation_feed.OUTAGE_NOTICED_SECONDS,)),
    ("keeps one request open for {30} seconds at a time", (revocation_feed.WAIT_SECONDS,)),
    ("The service sends a heartbeat every {3} seconds", (service_client.HEARTBEAT_SECONDS,)),
    (
        "the guard waits for {3} seconds at a time instead, and tries again after {20} requests",
        (service_client.HEARTBEAT_SECONDS, waits.SHORT_WAITS),
    ),
    ("After {three} such 503 in a row", (waits.REFUSED_WAITS,)),
    (
        "{once} a second, {30} times, before it tries again",
        (1 / revocation_feed.PLAIN_POLL_SECONDS, waits.PLAIN_POLLS),
    ),
    (
        "between {1} hour and {2} days (usually",
        (service_client.MIN_KEPT / timedelta(hours=1), service_client.MAX_KEPT / timedelta(days=1)),
    ),
    ("It keeps up to {1,000,000} revocations", (verification_state.MAX_REVOCATIONS,)),
    ("up to {16,384} tokens", (verification_state.MAX_REMEMBERED,)),
    ("if the wall clock jumps by over {a} minute", (verification_state.CLOCK_JUMP_SECONDS / 60,)),
    ("over {1} MiB is an error", (service_client.MAX_ANSWER_BYTES / 2**20,)),
    ("still lacks it at least {2} seconds later", (unknown_kids.PUBLISHED_SECONDS,)),
    (
        "the pauses between reads are {1}, 2, 4, 8 and then always {10} seconds",
        (unknown_kids.FIRST_PAUSE_SECONDS, unknown_kids.LAST_PAUSE_SECONDS),
    ),
    ("no such read for {60} seconds after a pause", (unknown_kids.QUIET_SECONDS,)),
    ("rejected for {5} seconds without a request", (invalid_tokens.REMEMBERED_SECONDS,)),
    ("keeps up to {4,096} such tokens", (invalid_tokens.MAX_REMEMBERED,)),
    ("at random times, at most {2} seconds apart", (outage.LAST_RETRY_SECONDS,)),
]
WORDS = {"a": 1, "once": 1, "three": 3}


def test_the_numbers_in_the_readme_are_those_of_the_code(subtests: pytest.Subtests) -> None:
    readme = " ".join((ROOT / "guard" / "README.md").read_text().split())
    for phrase, values in NUMBERS:
        with subtests.test(phrase):
            assert re.sub(r"[{}]", "", phrase) in readme
            said = [number.replace(",", "") for number in re.findall(r"{([^}]*)}", phrase)]
            assert [float(WORDS.get(number, number)) for number in said] == list(values)


# What Windows does not have. Modules of the standard library have read it before.
WITHOUT_UNIX = """
import asyncio, multiprocessing.util, os, select, selectors, signal, socket, ssl, subprocess, sys
import tempfile, time
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for module, names in {
    os: "chown fchmod fork geteuid getuid register_at_fork sched_getaffinity setpriority",
    select: "epoll poll",
    signal: "SIGHUP SIGKILL SIGQUIT SIGUSR1",
    socket: "AF_UNIX SO_REUSEPORT",
    time: "clock_gettime CLOCK_BOOTTIME CLOCK_MONOTONIC CLOCK_MONOTONIC_RAW",
}.items():
    for name in names.split():
        delattr(module, name)
"""


def test_guard_and_client_need_nothing_that_only_unix_has(shared_service: RunningService) -> None:
    person = shared_service.new_user()
    user, password = person["username"], person["password"]
    url = shared_service.url
    script = f"""{WITHOUT_UNIX}
sys.modules["fastapi"] = None  # its import would take most of the time
from hourpass import Guard, HourpassAuth
with HourpassAuth({url!r}, {user!r}, {password!r}) as auth, Guard({url!r}) as guard:
    for _ in range(2):
        print(guard.check(auth.token()).username)
"""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment(PYTHONPATH=os.environ.get("PYTHONPATH", "")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == (f"{user}\n{user}\n", "")
