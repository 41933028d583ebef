"""python -m tests.mutation [PATH ...]: see `make mutation`."""

import argparse
import ast
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from app.settings import ROOT
from tests import templates
from tests.mutation import equivalents, processes
from tests.mutation.changes import Change, changes
from tests.mutation.coverage import Coverage
from tests.mutation.equivalents import Key

_PATHS = [
    "app/tokens",
    "app/revocations",
    "app/sessions",
    "app/second_factors",
    "app/codes",
    "app/throttle",
    "app/users",
    "app/protocol.py",
    "app/vault.py",
    "guard/hourpass",
]
_COLUMNS = ("killed", "equivalent", "survived", "left out")
_HUNK = re.compile(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@", re.MULTILINE)


class Trial(NamedTuple):
    path: str  # of _PATHS
    key: Key
    line: int
    tests: int
    process: processes.Process


class Run:
    """As many trials at a time as there are jobs."""

    def __init__(self, jobs: int) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self._jobs = jobs
        self._trials: list[Trial] = []

    def count(self, path: str, outcome: str) -> None:
        self.counts.setdefault(path, Counter())[outcome] += 1

    def add(self, trial: Trial) -> None:
        self._trials.append(trial)
        self.wait(self._jobs - 1)

    def wait(self, still_running: int = 0) -> None:
        while len(self._trials) > still_running:
            for trial in list(self._trials):
                has_passed = processes.passed(trial.process)
                if has_passed is None:
                    continue
                self._trials.remove(trial)
                self.count(trial.path, "survived" if has_passed else "killed")
                if has_passed:
                    report(trial.key, trial.line, trial.tests)
            time.sleep(0.01)


def main() -> int:
    options = _options()
    known = equivalents.read()
    coverage = Coverage()
    processes.preload()
    run = Run(options.jobs)
    met: set[Key] = set()
    checked: set[Path] = set()
    deadline = time.monotonic() + 60 * options.minutes
    try:
        for path in options.paths:
            for module, tree, change in _changes(ROOT / path, options.since):
                key = Key(str(module.relative_to(ROOT)), change.function, str(change))
                met.add(key)
                if key in known:
                    run.count(path, "equivalent")
                elif time.monotonic() > deadline:
                    run.count(path, "left out")
                elif tests := coverage.tests(module, change.lines, options.seconds):
                    if module not in checked:
                        checked.add(module)
                        processes.check(module, tests)
                    process = processes.start(module, tree, tests)
                    run.add(Trial(path, key, change.lines.start, len(tests), process))
                else:
                    run.count(path, "survived")
                    report(key, change.lines.start, 0)
        run.wait()
    finally:
        templates.remove()
    _summarize(run.counts)
    modules = {key.module for key in met}
    outdated = {key for key in known if key.module in modules} - met
    if outdated and not options.since:
        print("No longer made, so equivalent.toml need not have them:", *outdated, sep="\n")
    return int(any(count["survived"] for count in run.counts.values()))


def report(key: Key, line: int, tests: int) -> None:
    print(
        f"{key.module}:{line} {key.function}: {key.change}\n    survived {tests} tests", flush=True
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.mutation", description=__doc__)
    parser.add_argument("paths", nargs="*", default=_PATHS, help="folders and modules")
    parser.add_argument("--since", metavar="COMMIT", help="only lines that changed since then")
    parser.add_argument("--seconds", type=float, default=20, help="of tests for each change")
    parser.add_argument("--minutes", type=float, default=600, help="then no more are tried")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def _changes(path: Path, since: str | None) -> Iterator[tuple[Path, ast.Module, Change]]:
    for module in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        wanted = _lines_since(since, module) if since else None
        tree = ast.parse(module.read_text("utf-8"))
        for change in changes(tree):
            if wanted is None or not wanted.isdisjoint(change.lines):
                yield module, tree, change


def _lines_since(commit: str, module: Path) -> set[int]:
    command = ["git", "diff", "--unified=0", commit, "--", str(module)]
    diff = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    lines: set[int] = set()
    for first, number in _HUNK.findall(diff):
        lines.update(range(int(first), int(first) + int(number or 1)))
    return lines


def _summarize(counts: dict[str, Counter[str]]) -> None:
    print(f"{'':24}{'tried':>12}" + "".join(f"{name:>12}" for name in _COLUMNS))
    for path, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        tried = count["killed"] + count["survived"]
        print(f"{path:24}{tried:12}" + "".join(f"{count[name]:12}" for name in _COLUMNS))


if __name__ == "__main__":
    sys.exit(main())
