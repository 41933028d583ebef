"""What tests of SIGHUP need."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def sighup_is_not_ignored() -> Iterator[None]:
    """In processes that `nohup` has started, and in those that they start, it is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
