"""Which databases a test runs on, where not on both."""

import pytest

# For tests of what is decided before any database is asked: refused bodies, paths, headers and
# malformed tokens. Only what reads or writes rows has to be seen on both.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

# For tests of what waits for what: on SQLite one transaction writes at a time.
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
