"""hourpass.testing in the tests of an API, run by pytest as its users run it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hourpass import Guard, InvalidTokenError
from hourpass.testing import Issuer
from tests.support.processes import environment

pytest_plugins = ["hourpass.testing"]

# An API without FastAPI, whose import would take most of the time.
CONFTEST = """
import sys

sys.modules["fastapi"] = None

from hourpass.testing import authorization  # importing from it first must not warn

pytest_plugins = ["hourpass.testing"]
"""

TESTS = """
from datetime import timedelta
from hourpass import Guard, GuardError, ServiceUnavailableError
from hourpass.testing import authorization
import pytest

guard = Guard("http://127.0.0.1:9", on_outage="trust", trust_for=timedelta(minutes=10))

@pytest.fixture
def issuer(hourpass_issuer):
    hourpass_issuer.attach(guard)
    return hourpass_issuer

@pytest.mark.parametrize("kind", ["expired", "revoked", "forged", "foreign"])
def test_refused(issuer, kind):
    with pytest.raises(GuardError):
        guard.check(getattr(issuer, f"{kind}_token")("predict"))

def test_valid(issuer):
    user = guard.check(issuer.token("predict", user_id=7, username="galahad"))
    assert (user.id, user.username, user.scopes) == (7, "galahad", {"predict"})
    assert authorization("x") == {"Authorization": "Bearer x"}

def test_revoked_and_disabled(issuer):
    first, second = issuer.token(), issuer.token(user_id=2)
    guard.check(first), guard.check(second)
    issuer.revoke(first)
    issuer.disable(2)
    for token in (first, second):
        with pytest.raises(GuardError):
            guard.check(token)

def test_outage(issuer):
    token = issuer.token()
    guard.check(token)
    with issuer.outage(lasting=timedelta(minutes=9)):
        guard.check(token)
    with issuer.outage(lasting=timedelta(minutes=11)):
        with pytest.raises(ServiceUnavailableError):
            guard.check(token)
    guard.check(token)

def test_time(issuer):
    token = issuer.token()
    issuer.advance_time(timedelta(minutes=59))
    guard.check(token)
    issuer.advance_time(timedelta(minutes=2))
    with pytest.raises(GuardError):
        guard.check(token)
"""


# The other plugins that are installed here take most of the time of a start.
WITHOUT_PLUGINS = [
    f"-pno:{name}"
    for name in ("asyncio", "xdist", "anyio", "hypothesispytest", "schemathesis", "pytest_cov")
]


def run_pytest(directory: Path, *options: str, **variables: str) -> str:
    """What it prints."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *WITHOUT_PLUGINS, *options],
        cwd=directory,
        env=environment(PYTHONPATH=os.environ.get("PYTHONPATH", ""), **variables),
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


NESTED_CONFTEST = """
import pytest
from hourpass import Guard

@pytest.fixture(scope="session")
def session_guard(session_hourpass_issuer):
    guard = Guard("http://127.0.0.1:9")
    session_hourpass_issuer.attach(guard)
    return guard

@pytest.fixture(scope="module")
def module_guard(module_hourpass_issuer):
    guard = Guard("http://127.0.0.1:9")
    module_hourpass_issuer.attach(guard)
    return guard
"""

NESTED_TESTS = """
import pytest

@pytest.mark.parametrize("turn", [1, 2])
def test_shared(session_guard, session_hourpass_issuer, module_guard, module_hourpass_issuer, turn):
    session_guard.check(session_hourpass_issuer.token())
    module_guard.check(module_hourpass_issuer.token())
"""


CLIENT = """
from starlette.testclient import TestClient
from my_api import app

@pytest.fixture
def client():
    return TestClient(app)
"""


def write_tests(directory: Path, conftest: str) -> None:
    """Ten tests of a program that uses the plugin."""
    (directory / "nested").mkdir()
    (directory / "nested" / "conftest.py").write_text(NESTED_CONFTEST)
    (directory / "nested" / "test_nested.py").write_text(NESTED_TESTS)
    (directory / "conftest.py").write_text(conftest)
    (directory / "test_api.py").write_text(TESTS)


def test_pytest_finds_the_plugin_and_the_readme_shows_how_to_use_it(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    api, *_, conftest, test = blocks
    write_tests(tmp_path, conftest + CLIENT)
    (tmp_path / "my_api.py").write_text(api)
    (tmp_path / "test_my_api.py").write_text(test)
    assert "11 passed" in run_pytest(tmp_path, "-W", "error")


def test_the_plugin_can_be_named_in_conftest(tmp_path: Path) -> None:
    write_tests(tmp_path, CONFTEST)
    variables = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    assert "10 passed" in run_pytest(tmp_path, "-W", "error", **variables)


def test_the_plugin_costs_nothing_in_a_run_that_does_not_use_it() -> None:
    program = """
import sys
import hourpass.pytest_plugin
print(*{"jwt", "fastapi", "asyncio", "hourpass.guard", "hourpass.testing"} & sys.modules.keys())
"""
    variables = environment(PYTHONPATH=os.environ.get("PYTHONPATH", ""))
    ran = subprocess.run(
        [sys.executable, "-c", program], env=variables, check=True, capture_output=True, text=True
    )
    assert ran.stdout == "\n"


def test_a_closed_issuer_restores_the_guard() -> None:
    guard = Guard("https://hourpass.example")
    before = (guard.transport, guard.clock)
    issuer = Issuer()
    issuer.attach(guard)
    guard.check(issuer.token())
    issuer.close()
    assert (guard.transport, guard.clock) == before


def test_one_test_issuer_serves_several_guards(hourpass_issuer: Issuer) -> None:
    guards = [Guard("https://hourpass.example") for _ in range(3)]
    for guard in guards:
        hourpass_issuer.attach(guard)
    token = hourpass_issuer.token()
    assert {guard.check(token).username for guard in guards} == {"lancelot"}
    guards[0].close()  # as an app that ends its lifespan
    hourpass_issuer.revoke(token)
    for guard in guards:
        with pytest.raises(InvalidTokenError):
            guard.check(token)
