"""The number of hashing threads follows the limits of the container, not the host's cores."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.security import hashing_threads as limits
from app.security.hashing_threads import available_cores, available_memory, hashing_threads
from app.settings import ROOT
from tests.support.settings import make_settings

MIB = 2**20
UNLIMITED_V1 = "9223372036854771712"
CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


def system(directory: Path, cgroup: str, files: dict[str, str], memory_kib: int = 2**24) -> Path:
    """A folder with the part of /proc and /sys that describes the limits."""
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    files["proc/self/cgroup"] = cgroup
    files["proc/meminfo"] = f"MemTotal:       {memory_kib} kB\nMemFree:  1 kB\n"
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return directory


@pytest.mark.parametrize(
    ("cgroup", "files", "cores", "memory"),
    [
        pytest.param(
            "0::/", {"cpu.max": "250000 100000", "memory.max": "536870912"}, 2, 512, id="v2"
        ),
        pytest.param(
            "0::/", {"cpu.max": "max 100000", "memory.max": "max"}, 16, 16384, id="v2, unlimited"
        ),
        pytest.param("0::/", {"cpu.max": "50000 100000"}, 1, 16384, id="half a core"),
        pytest.param(
            "0::/a.slice/b.scope",
            {
                "a.slice/cpu.max": "300000 100000",
                "a.slice/b.scope/cpu.max": "400000 100000",
                "a.slice/memory.max": "268435456",
                "a.slice/b.scope/memory.max": "max",
            },
            *(3, 256),
            id="v2, limited above",
        ),
        pytest.param(
            "0::/",
            {"memory.max": "536870912", "memory.high": "134217728"},
            *(16, 128),
            id="v2, throttled",
        ),
        pytest.param(
            "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/",
            {
                "cpu/docker/x/cpu.cfs_quota_us": "400000",
                "cpu/docker/x/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": UNLIMITED_V1,
                "memory/docker/x/memory.limit_in_bytes": "536870912",
            },
            *(4, 512),
            id="v1",
        ),
        pytest.param(
            "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x",
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "536870912",
            },
            *(16, 512),
            id="v1, with the host's path",
        ),
        pytest.param("", {}, 16, 16384, id="none"),
    ],
)
def test_the_limits_of_the_container(
    tmp_path: Path, cgroup: str, files: dict[str, str], cores: int, memory: int
) -> None:
    root = system(tmp_path, cgroup, files)
    assert available_cores(root) == cores
    assert available_memory(root) == memory * MIB


def test_a_system_without_these_files_has_its_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert available_cores(tmp_path) == 16
    assert available_memory(tmp_path) is None
    settings = make_settings("sqlite:///x.db", hashing_threads=None)
    assert hashing_threads(settings, tmp_path) == 8
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert hashing_threads(settings, tmp_path) == 3


@pytest.mark.parametrize(
    ("memory_mib", "workers", "set_threads", "threads"),
    [
        pytest.param(512, 1, None, 6, id="a quarter of the memory"),
        pytest.param(512, 3, None, 2, id="for all workers together"),
        pytest.param(64, 4, None, 1, id="at least one"),
        pytest.param(4096, 1, None, 8, id="at most 8"),
        pytest.param(512, 1, 32, 32, id="set"),
    ],
)
def test_hashing_threads(
    tmp_path: Path, memory_mib: int, workers: int, set_threads: int | None, threads: int
) -> None:
    root = system(tmp_path, "0::/", {"memory.max": str(memory_mib * MIB)})
    settings = make_settings("sqlite:///x.db", workers=workers, hashing_threads=set_threads)
    settings = settings.model_copy(update={"argon2_memory_kib": 19456})
    assert hashing_threads(settings, root) == threads


def test_the_documentation_has_the_bounds() -> None:
    page = " ".join((ROOT / "docs/deployment.md").read_text().split())
    assert f"at most {limits.MAX_THREADS}, and uses a quarter of the memory limit" in page
    assert limits.MEMORY_SHARE == 4


@pytest.fixture
def container() -> Iterator[list[Path]]:
    """A real control group with 1.5 cores and 192 MiB, as its files to join it: two in version 1.
    Only root can make one, and not in most containers."""
    name = f"hourpass-test-{os.getpid()}"
    if (CGROUPS / "cgroup.controllers").exists():
        trees = {"": {"cpu.max": "150000 100000", "memory.max": str(192 * MIB)}}
    else:
        trees = {
            "cpu": {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000"},
            "memory": {"memory.limit_in_bytes": str(192 * MIB)},
        }
    groups = {CGROUPS / tree / name: files for tree, files in trees.items()}
    with ExitStack() as stack:
        try:
            for group, files in groups.items():
                group.mkdir()
                stack.callback(group.rmdir)
                for file, text in files.items():
                    (group / file).write_text(text)
        except OSError as error:
            pytest.skip(f"cannot make a control group: {error}")
        yield [group / "cgroup.procs" for group in groups]


def test_the_limits_of_a_real_control_group(container: list[Path]) -> None:
    join = "".join(f"echo $$ > {file}; " for file in container)
    code = (
        f"from {limits.__name__} import *; import os; os.sched_getaffinity = lambda _: range(16); "
        "print(available_cores(), available_memory())"
    )
    run = subprocess.run(
        ["sh", "-c", f'{join} exec "$@"', "sh", sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout.split() == ["1", str(192 * MIB)]
