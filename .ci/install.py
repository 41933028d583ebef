"""Installs packages in a virtual environment, for the Makefile:

    install.py TITLE MARKER SOURCE... -- PIP-ARGUMENT... [-- PIP-ARGUMENT...]

The folder of MARKER is the environment. MARKER is written last, and is then newer than each SOURCE.
An environment whose installation was interrupted, which was moved, or whose Python is gone is made
again. One installation runs at a time; others wait for it.

Too old Pythons run this file to say that they are: it uses nothing that Python 3.6 does not have.
"""

import fcntl
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

NEEDED = (3, 11)
LOCK = Path(".venv/lock")
UNFINISHED = "unfinished"


def main() -> None:
    title, marker_name, *others = sys.argv[1:]
    marker = Path(marker_name)
    sources, *pip_calls = split(others)
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as lock:
        wait_for(lock)
        environment = Environment(marker.parent, lock.fileno())
        if environment.is_current(marker, sources):
            return  # another `make` has done it meanwhile
        environment.repair()
        sys.stdout.write(f"{title}\n")
        sys.stdout.flush()
        environment.install(marker, pip_calls)


def split(arguments: "list[str]") -> "list[list[str]]":
    parts = [[]]  # type: list[list[str]]
    for argument in arguments:
        if argument == "--":
            parts.append([])
        else:
            parts[-1].append(argument)
    return parts


def wait_for(lock: "object") -> None:
    """The lock ends with the processes that have it, however they end."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stdout.write("Waiting for another `make` that installs packages here\n")
        sys.stdout.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        pass  # some network file systems have no locks


class Environment:
    def __init__(self, directory: Path, lock: int) -> None:
        self.directory = directory
        self.python = Path.cwd() / directory / "bin" / "python"
        self.unfinished = directory / UNFINISHED
        self._lock = lock

    def is_current(self, marker: Path, sources: "list[str]") -> bool:
        if not marker.exists() or self.problem():
            return False
        made_at = marker.stat().st_mtime
        return all(Path(source).stat().st_mtime <= made_at for source in sources)

    def problem(self) -> str:
        """Why nothing can be installed here. Empty if there is no reason."""
        if self.unfinished.exists():
            return "its installation was interrupted"
        version = self._version()
        if not version:
            return "its Python is gone"
        if version < NEEDED:
            return "it has Python {}.{}".format(*version)
        for name in ("hourpass", "pip"):
            script = self.python.parent / name
            if script.exists() and str(self.python.parent) not in script.read_text():
                return "it was made in another folder"
        return ""

    def repair(self) -> None:
        """Make it, or make it again, unless it works. Removes only what this file has made."""
        problem = self.problem()
        if not problem:
            return
        has_environment = (self.directory / "pyvenv.cfg").exists() or self.python.parent.exists()
        if has_environment and not self._is_ours():
            fail(f"{self.directory} cannot be used: {problem}. Remove it and try again.")
        check_python()
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._is_ours():
            sys.stdout.write(f"Making {self.directory} again, because {problem}\n")
            sys.stdout.flush()
            self.unfinished.touch()
            self._clear()
        self.unfinished.touch()
        if self._run(sys.executable, "-I", "-m", "venv", "--without-pip", self.directory):
            fail(f"Cannot make the virtual environment {self.directory}.")

    def install(self, marker: Path, pip_calls: "list[list[str]]") -> None:
        self.unfinished.touch()
        pip = (self.python, "-I", "-m", "pip")
        if self._run(self.python, "-I", "-c", "import pip", is_quiet=True) and self._run(
            self.python, "-I", "-m", "ensurepip", is_quiet=True
        ):  # uv makes environments without pip
            fail(f"{self.directory} has no pip and cannot get one. Remove it and try again.")
        for arguments in pip_calls:
            status = self._run(*pip, "install", "-q", "--disable-pip-version-check", *arguments)
            if status > 0:  # pip has cleaned up
                self.unfinished.unlink()
            if status:
                fail(f"pip could not install everything in {self.directory}.")
        marker.touch()
        self.unfinished.unlink()

    def _version(self) -> "tuple[int, ...]":
        program = "import sys; print(*sys.version_info[:2])"
        command = [str(self.python), "-I", "-c", program]
        try:
            ran = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return ()
        return tuple(map(int, ran.stdout.split()))

    def _is_ours(self) -> bool:
        markers = (UNFINISHED, "service", "dev", "installed")
        return any((self.directory / name).exists() for name in markers)

    def _clear(self) -> None:
        """If this is interrupted, the environment is still known as unfinished."""
        for path in self.directory.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(str(path))
            elif path.name not in (UNFINISHED, LOCK.name):
                path.unlink()

    def _run(self, *command: "str | Path", is_quiet: bool = False) -> int:
        """Its exit status. The child keeps the lock, should this process be killed."""
        output = subprocess.DEVNULL if is_quiet else None
        ran = subprocess.run(
            list(map(str, command)),
            stdout=output,
            stderr=output,
            pass_fds=[self._lock],
            check=False,
        )
        return ran.returncode


def check_python() -> None:
    """Fail unless this Python can make the environment."""
    if sys.version_info < NEEDED:
        found = "{}.{}.{}".format(*sys.version_info)
        fail(
            f"Hourpass needs Python 3.11 or newer. {sys.executable} is Python {found}. "
            f"Name another one, for example: make run PYTHON={another_python()}"
        )
    if not (find_spec("venv") and find_spec("ensurepip")):
        fail(
            f"{sys.executable} cannot make virtual environments, because it has no ensurepip. "
            "On Debian and Ubuntu, install the package python3-venv."
        )


def another_python() -> str:
    names = [f"python3.{minor}" for minor in range(20, 10, -1)]
    return next(filter(shutil.which, names), "python3.13")


def fail(message: str) -> None:
    sys.exit(message)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        fail(str(error))
