"""The addresses of the example, and its PostgreSQL members as seen from outside: who leads, and how
to switch over or kill.
"""

import json
import os
import signal
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HTTP_SECONDS = 10.0
SWITCHOVER_SECONDS = 60.0


@dataclass(frozen=True)
class Cluster:
    """All addresses are in one loopback network, and all files in one folder. With others, a second
    cluster can run on the same machine."""

    network: str
    folder: Path

    @classmethod
    def from_environment(cls) -> "Cluster":
        folder = os.environ.get("CLUSTER_FOLDER", f"/tmp/hourpass-cluster-{os.getuid()}")
        return cls(os.environ.get("CLUSTER_NETWORK", "127.0.0"), Path(folder))

    @property
    def addresses(self) -> dict[str, str]:
        """The address of each host by its name. In production, each is a machine."""
        numbers = {"front": 1, "etcd": 2, "member1": 11, "member2": 12, "member3": 13}
        numbers |= {"host_a": 21, "host_b": 22}
        return {name: f"{self.network}.{number}" for name, number in numbers.items()}

    @property
    def members(self) -> dict[str, str]:
        return {name: at for name, at in self.addresses.items() if name.startswith("member")}

    def url(self, name: str) -> str:
        return f"http://{self.addresses[name]}:8000"

    @property
    def api_url(self) -> str:
        return f"http://{self.addresses['front']}:9000"

    def primary(self) -> str | None:
        """The member that holds the leader's lock and accepts writes."""
        return self._first_with("primary")

    def synchronous_standby(self) -> str | None:
        """The member that has every acknowledged commit."""
        return self._first_with("synchronous")

    def standbys(self) -> list[str]:
        return [name for name in self.members if self._has_role(name, "replica")]

    def switch_over(self) -> None:
        """Return when another member leads. Raises OSError if Patroni refuses."""
        leader = self.primary()
        if not leader:
            raise OSError("no member leads")
        self.patroni("POST", leader, "switchover", {"leader": leader})

    def configure(self, changes: dict[str, Any]) -> None:
        """Change the configuration as `patronictl edit-config` does."""
        self.patroni("PATCH", self.primary() or "", "config", changes)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Patroni first: it would start PostgreSQL again."""
        for process in self.processes(name):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def processes(self, name: str) -> list[int]:
        """Patroni, PostgreSQL and what they have started. Only they name the member's files so."""
        folder = str(self.folder / name)
        words = {folder, f"{folder}.yml", f"--pgdata={folder}"}
        named = [pid for pid in _all_processes() if words.intersection(command(pid))]
        # PostgreSQL's own processes change their command line.
        children = [pid for pid in _all_processes() if _parent(pid) in named and pid not in named]
        return sorted(named, key=lambda pid: f"{folder}.yml" not in command(pid)) + children

    def patroni(self, method: str, member: str, path: str, body: object) -> None:
        request = urllib.request.Request(
            f"http://{self.members[member]}:8008/{path}", json.dumps(body).encode(), method=method
        )
        urllib.request.urlopen(request, timeout=SWITCHOVER_SECONDS).close()

    def _first_with(self, role: str) -> str | None:
        return next((name for name in self.members if self._has_role(name, role)), None)

    def _has_role(self, name: str, role: str) -> bool:
        return status(f"http://{self.members[name]}:8008/{role}") == 200


def status(url: str, body: Any = None, token: str | None = None) -> int | None:
    """The status of the response, or None without one."""
    return request(url, body, token)[0]


def request(url: str, body: Any = None, token: str | None = None) -> tuple[int | None, Any]:
    """POST with a JSON body, otherwise GET."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = json.dumps(body).encode() if body is not None else None
    try:
        asked = urllib.request.Request(url, data, headers)
        with urllib.request.urlopen(asked, timeout=HTTP_SECONDS) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as refusal:
        return refusal.code, None
    except (OSError, ValueError):
        return None, None


def _all_processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:  # it has ended
        return []


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
