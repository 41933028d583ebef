"""The number of passwords that a worker hashes at the same time, unless HASHING_THREADS sets it.

A container may have fewer cores and less memory than its host. Control groups (cgroups) set these
limits. Version 2 has all of them in one tree, version 1 has a tree for each kind.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from app.settings import Settings

MAX_THREADS = 8
MEMORY_SHARE = 4  # hashing may use a quarter of the memory

_UNLIMITED = ("max", "-1", "")
_ROOT = Path("/")


def hashing_threads(settings: Settings, root: Path = _ROOT) -> int:
    """`root` has the folders `proc` and `sys`."""
    if settings.hashing_threads is not None:
        return settings.hashing_threads
    threads = min(MAX_THREADS, available_cores(root))
    if memory := available_memory(root):
        per_worker = memory // MEMORY_SHARE // settings.workers
        threads = min(threads, per_worker // (settings.argon2_memory_kib * 1024))
    return max(1, threads)


def available_cores(root: Path = _ROOT) -> int:
    """Rounded down: if the quota is used up, the kernel stops the event loop as well."""
    if hasattr(os, "sched_getaffinity"):
        cores: float = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    for group in _groups(root, "cpu"):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        quota = quota or _read(group / "cpu.cfs_quota_us")
        period = period or _read(group / "cpu.cfs_period_us")
        if quota not in _UNLIMITED:
            cores = min(cores, int(quota) / int(period))
    return max(1, int(cores))


def available_memory(root: Path = _ROOT) -> int | None:
    """In bytes. None if the system does not tell."""
    limits = [
        int(limit)
        for group in _groups(root, "memory")
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes")
        if (limit := _read(group / name)) not in _UNLIMITED
    ]
    total = re.search(r"^MemTotal: *(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    if total:
        limits.append(int(total[1]) * 1024)
    return min(limits, default=None)


def _groups(root: Path, kind: str) -> Iterator[Path]:
    """The process's control group and those above it, which limit it as well."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds and kind not in kinds.split(","):
            continue
        tree = root / "sys/fs/cgroup" / (kind if kinds else "")
        # In a container, the path may be the host's. Then only the last of these exists.
        group = PurePosixPath(path.lstrip("/"))
        yield from (tree / one for one in (group, *group.parents))


def _read(path: Path) -> str:
    """Empty if there is no such file."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
