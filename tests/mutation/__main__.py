"""python -m tests.mutation [PATH ...]: see `make mutation`."""

import argparse
import ast
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from app.settings import ROOT
from tests.mutation import equivalents
from tests.mutation.changes import Change, changes
from tests.mutation.coverage import Choice, Coverage
from tests.mutation.equivalents import Key
from tests.mutation.processes import Outcome, Process, Processes

_PATHS = [
    "app/tokens",
    "app/credentials",
    "app/security",
    "app/users",
    "app/server/protocol.py",
    "guard/hourpass",
]
_COLUMNS = ("killed", "survived", "broken", "equivalent", "left out")
_HUNK = re.compile(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@", re.MULTILINE)


class Trial(NamedTuple):
    path: str  # of _PATHS
    key: Key
    line: int
    module: Path
    source: str  # the changed one
    tests: int
    process: Process
    rest: list[Choice]  # of tests, if all of these pass


class Run:
    """As many trials at a time as there are jobs."""

    def __init__(self, options: argparse.Namespace, coverage: Coverage) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.met: set[Key] = set()
        self.known = equivalents.read()
        self._options = options
        self._coverage = coverage
        self._deadline = time.monotonic() + 60 * options.minutes
        # By test: whether it passes without a change, in a copy of the tree and here.
        self._usable: dict[bool, dict[str, bool]] = {True: {}, False: {}}
        self._trials: list[Trial] = []

    def __call__(self, processes: Processes) -> None:
        try:
            for path in self._options.paths:
                self.counts[path] = Counter()
                for module, tree, change in _changes(ROOT / path, self._options.since):
                    self._try(processes, path, module, tree, change)
            self._wait(processes)
        finally:
            for trial in self._trials:
                trial.process.kill()

    def _try(
        self, processes: Processes, path: str, module: Path, tree: ast.Module, change: Change
    ) -> None:
        key = Key(str(module.relative_to(ROOT)), change.function, str(change))
        self.met.add(key)
        if key in self.known or time.monotonic() > self._deadline:
            self.counts[path]["equivalent" if key in self.known else "left out"] += 1
            return
        limits = self._options.seconds, processes.items
        choices = [
            self._without_failing(processes, module, choice)
            for choice in (
                self._coverage.choose(module, change.lines, *limits),
                self._coverage.choose_in_processes(module, *limits),
            )
        ]
        choices = [choice for choice in choices if choice.ids]
        if not choices:
            self.counts[path]["survived"] += 1
            report(key, change.lines.start, "survived, because no test executes it")
            return
        first, *rest = choices
        process = processes.start(module, tree, first)
        of_change = (path, key, change.lines.start, module, ast.unparse(tree))
        self._trials.append(Trial(*of_change, len(first.ids), process, rest))
        self._wait(processes, self._options.jobs - 1)

    def _without_failing(self, processes: Processes, module: Path, choice: Choice) -> Choice:
        """Tests may fail by themselves, for example because they run alone here."""
        usable = self._usable[choice.in_copy]
        if new := [id_ for id_ in choice.ids if id_ not in usable]:
            passing = set(_passing(processes, module, choice._replace(ids=new)))
            usable.update((id_, id_ in passing) for id_ in new)
            for id_ in (id_ for id_ in new if id_ not in passing):
                print(f"Not used, because it fails without a change: {id_}", flush=True)
        return choice._replace(ids=[id_ for id_ in choice.ids if usable[id_]])

    def _wait(self, processes: Processes, still_running: int = 0) -> None:
        while len(self._trials) > still_running:
            for trial in list(self._trials):
                if (outcome := trial.process.outcome()) is None:
                    continue
                self._trials.remove(trial)
                if outcome is Outcome.SURVIVED and trial.rest:
                    self._trials.append(_continued(processes, trial))
                    continue
                self.counts[trial.path][outcome] += 1
                if outcome is not Outcome.KILLED:
                    report(trial.key, trial.line, f"{outcome}, with {trial.tests} tests")
            time.sleep(0.005)


def _passing(processes: Processes, module: Path, choice: Choice) -> list[str]:
    if processes.pass_unchanged(module, choice):
        return choice.ids
    if len(choice.ids) == 1:
        return []
    middle = len(choice.ids) // 2
    halves = (choice.ids[:middle], choice.ids[middle:])
    return [id_ for ids in halves for id_ in _passing(processes, module, choice._replace(ids=ids))]


def _continued(processes: Processes, trial: Trial) -> Trial:
    choice, *rest = trial.rest
    process = processes.start(trial.module, ast.parse(trial.source), choice)
    return trial._replace(tests=trial.tests + len(choice.ids), process=process, rest=rest)


def main() -> int:
    options = _options()
    run = Run(options, Coverage())
    status = Processes(run).run()
    _summarize(run.counts)
    if status != pytest.ExitCode.OK:
        print(f"The run ended early, with pytest's status {status}")
        return 1
    modules = {key.module for key in run.met}
    outdated = {key for key in run.known if key.module in modules} - run.met
    if outdated and not options.since:
        print("No longer made, so equivalent.toml need not have them:", *outdated, sep="\n")
    return int(any(count["survived"] or count["broken"] for count in run.counts.values()))


def report(key: Key, line: int, what: str) -> None:
    print(f"{key.module}:{line} {key.function}: {key.change}\n    {what}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.mutation", description=__doc__)
    parser.add_argument("paths", nargs="*", help="folders and modules")
    parser.add_argument("--since", metavar="COMMIT", help="only lines that changed since then")
    parser.add_argument("--seconds", type=float, default=20, help="of tests for each change")
    parser.add_argument("--minutes", type=float, default=600, help="then no more are tried")
    # All jobs share one PostgreSQL server with 100 connections.
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 8))
    options = parser.parse_args()
    if not options.paths:
        options.paths = ["app", "guard/hourpass"] if options.since else _PATHS
    return options


def _changes(path: Path, since: str | None) -> Iterator[tuple[Path, ast.Module, Change]]:
    """The modules come in another order each day, so that a run that ends early reaches others."""
    modules = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    random.Random(str(datetime.now(UTC).date())).shuffle(modules)
    for module in modules:
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
        tried = count["killed"] + count["survived"] + count["broken"]
        print(f"{path:24}{tried:12}" + "".join(f"{count[name]:12}" for name in _COLUMNS))


if __name__ == "__main__":
    sys.exit(main())
