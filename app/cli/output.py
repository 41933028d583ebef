"""How commands print records and ask for confirmation.

Records go to standard output: a table for people, or one JSON object per line for programs.
Questions and messages beside a secret go to standard error. Exit statuses: 0 done, 1 an error that
the operator can correct (also: not confirmed), 2 wrong arguments.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
yes = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


def confirm(question: str, *, is_confirmed: bool) -> None:
    """Ask, unless the option `--yes` was given. Raises click.Abort."""
    if not is_confirmed:
        click.confirm(question, abort=True, err=True)


def counted(number: int, noun: str) -> str:
    """For example `1 user` and `1,000 users`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def print_json(record: Mapping[str, Any]) -> None:
    click.echo(json.dumps(record, default=str))


class Table:
    """A table with columns of fixed widths: a list may be longer than the memory. A longer cell
    moves the rest of its row. The last column is as long as it needs."""

    def __init__(self, **widths: int) -> None:
        """The columns' names, with `_` for a space, and their widths. Prints the head."""
        self._widths = tuple(widths.values())
        self.row([name.replace("_", " ").upper() for name in widths])

    def row(self, cells: Sequence[Any]) -> None:
        padded = (
            f"{'' if cell is None else cell!s:<{width}}"
            for cell, width in zip(cells, self._widths, strict=True)
        )
        click.echo("  ".join(padded).rstrip())

    def rows(self, rows: Iterable[Sequence[Any]]) -> None:
        for cells in rows:
            self.row(cells)
