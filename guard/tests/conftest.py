"""The tests of the guard that need no service. The others are in tests/guard/ of the repository.

Neither they nor the modules of tests/support/ that they use import the service.
"""

from tests.support import ssl_contexts
from tests.support.guards import no_guard_outlives_its_test  # noqa: F401 - a fixture

ssl_contexts.share()
