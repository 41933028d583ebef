"""Compares the service with other servers, and prints one table. See `make bench`."""

import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import click

from app.settings import ROOT, Settings
from benchmarks import figures, servers
from benchmarks.bench import Bench, Row

_GENERATORS = 2  # loads at the same time


@click.command()
@click.option("--rounds", default=5, show_default=True, help="How often each figure is measured.")
@click.option("--seconds", default=2.0, show_default=True, help="That it is measured for.")
@click.option("--rows", default=1_000_000, show_default=True, help="Users in the large database.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([figure.__name__ for figure in figures.ALL]),
    help="Measure this alone. May be repeated.",
)
@click.option("--quick", is_flag=True, help="Two minutes instead of ten, and less exact.")
@click.option(
    "--peers-python",
    type=click.Path(path_type=Path),
    default=ROOT / ".venv/peers/bin/python",
    help="The interpreter that has the packages of requirements-bench.txt.",
)
def main(  # noqa: PLR0913 - one for each option
    rounds: int, seconds: float, rows: int, only: Sequence[str], peers_python: Path, *, quick: bool
) -> None:
    # Nobody's settings may change what is measured.
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)
    os.environ["ENV_FILE"] = os.devnull
    load = os.getloadavg()[0]
    if quick:
        rounds, seconds, rows = min(rounds, 2), min(seconds, 1), min(rows, 100_000)
    chosen = [figure for figure in figures.ALL if not only or figure.__name__ in only]
    table: list[Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="hourpass-bench-", ignore_cleanup_errors=True) as place,
        servers.postgres(Path(place)) as postgres,
        multiprocessing.get_context("spawn").Pool(_GENERATORS) as generators,
    ):
        bench = Bench(
            rounds=rounds,
            seconds=seconds,
            users=rows,
            share=0.1 if quick else 1,
            directory=Path(place),
            postgres=postgres,
            generators=generators,
            peers_python=peers_python,
            _numbers=count(),
        )
        try:
            for figure in chosen:
                started_at = time.monotonic()
                table += figure(bench)
                took = time.monotonic() - started_at
                print(f"{figure.__name__}: {took:.0f} s", file=sys.stderr)
        finally:
            print_table(table)
    print(
        f"\n{datetime.now(UTC):%F}, {processor()}, {os.cpu_count()} cores, load before {load:.1f}, "
        f"Python {platform.python_version()}; {rounds} rounds of {seconds:g} s, medians. "
        "µs: CPU time of one request."
    )


def print_table(table: Iterable[Row]) -> None:
    """The table as Markdown."""
    lines = [["figure", "measured", "against", "ratio", "goal", "ok"]]
    lines += [
        [row.figure, row.measured, row.against, f"{row.ratio:.2f}", *_verdict(row)] for row in table
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print("| " + " | ".join(cells) + " |")


def _verdict(row: Row) -> tuple[str, str]:
    if row.at_least is not None:
        return f"≥ {row.at_least:.2f}", "yes" if row.ratio >= row.at_least else "NO"
    if row.at_most is not None:
        return f"≤ {row.at_most:.2f}", "yes" if row.ratio <= row.at_most else "NO"
    return "", ""


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
