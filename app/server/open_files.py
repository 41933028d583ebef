"""How many files, connections included, the process may open: its soft and its hard limit."""

import logging
import sys

_IF_UNLIMITED = 65_536

_log = logging.getLogger("hourpass.connections")


def open_files() -> int:
    """The open-files limit of this process."""
    if sys.platform == "win32":
        return _IF_UNLIMITED
    import resource

    return _finite(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def most_open_files() -> int:
    """The limit of this process after raise_open_files()."""
    if sys.platform == "win32":
        return _IF_UNLIMITED
    import resource

    return _finite(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _finite(limit: int) -> int:
    import resource

    return _IF_UNLIMITED if limit == resource.RLIM_INFINITY else limit


def raise_open_files() -> None:
    """Raise the open-files limit to the hard limit. Processes started later inherit it."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS reports "unlimited" and then refuses it
        _log.warning("Cannot raise the open-files limit", extra={"limit": open_files()})
