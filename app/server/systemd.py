"""What systemd, or another service manager, passes to `hourpass serve`: sockets that stay open
while the service restarts, and an address to which it reports that it is ready.

The protocols are those of sd_listen_fds(3) and sd_notify(3). Without a service manager, nothing
here has an effect.
"""

import os
import socket
from contextlib import suppress

_FIRST_FILE = 3  # after the standard streams


def inherited_listeners() -> list[socket.socket]:
    """The sockets that the service manager has opened. Removes them from the environment, so that
    processes started later do not look for them. Raises ValueError for one that is not TCP."""
    pid, number, _ = (os.environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not number.isdecimal():
        return []
    listeners = []
    for file in range(_FIRST_FILE, _FIRST_FILE + int(number)):
        os.set_inheritable(file, False)  # noqa: FBT003 - its second parameter has no keyword
        listener = socket.socket(fileno=file)
        is_internet = listener.family in (socket.AF_INET, socket.AF_INET6)
        if listener.type != socket.SOCK_STREAM or not is_internet:
            listener.close()
            raise ValueError("it is not a TCP socket")
        listeners.append(listener)
    return listeners


class Notifier:
    """Reports the state of the service. Removes the address from the environment, so that only this
    process reports."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address  # unix(7)

    def ready(self) -> None:
        self._send(b"READY=1")

    def stopping(self) -> None:
        self._send(b"STOPPING=1")

    def _send(self, state: bytes) -> None:
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(state, self._address)
