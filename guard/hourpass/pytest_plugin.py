"""The fixtures of hourpass.testing. pytest loads this in every run, so it imports nothing heavy.

PYTEST_DONT_REWRITE: there are no assertions here.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hourpass.testing import Issuer


@pytest.fixture
def hourpass_issuer() -> Iterator["Issuer"]:
    """An issuer of tokens for one test; see hourpass.testing."""
    yield from _issuer()


@pytest.fixture(scope="module")
def module_hourpass_issuer() -> Iterator["Issuer"]:
    """An issuer for all tests of a module, for example because they share a client."""
    yield from _issuer()


@pytest.fixture(scope="session")
def session_hourpass_issuer() -> Iterator["Issuer"]:
    """An issuer for all tests."""
    yield from _issuer()


def _issuer() -> Iterator["Issuer"]:
    from hourpass.testing import Issuer

    issuer = Issuer()
    yield issuer
    issuer.close()
