"""How commands print records and ask for confirmation.

Records go to standard output: a table for people, or one JSON object per line for programs.
Questions and messages beside a secret go to standard error. Exit statuses: 0 done, 1 an error that
the operator can correct (also: not confirmed), 2 wrong arguments.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
yes = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


def confirm(question: str, *, is_confirmed: bool) -> None:
    """Ask, unless the option `--yes` was given. Raises click.Abort."""
    if not is_confirmed:
        click.confirm(question, abort=True, err=True)


def print_json(record: Mapping[str, Any]) -> None:
    _echo(json.dumps(record, default=_json_value))


def print_record(record: Mapping[str, Any], *, as_json: bool) -> None:
    """One record: a line for each member that has a value, or a JSON object."""
    if as_json:
        print_json(record)
        return
    shown = {_title(name): text for name, value in record.items() if (text := as_text(value))}
    width = max(map(len, shown), default=0)
    for title, text in shown.items():
        click.echo(f"{title:<{width}}  {text}")


def print_change(record: Mapping[str, Any], message: str, *, as_json: bool) -> None:
    """What a command did: a sentence for people, or the record after it for programs."""
    if as_json:
        print_json(record)
    else:
        click.echo(message)


class Table:
    """A table with columns of fixed widths: a list may be longer than the memory. A longer cell
    moves the rest of its row. The last column is as long as it needs."""

    def __init__(self, **widths: int) -> None:
        """The columns' names, with `_` for a space, and their widths. Prints the head."""
        self._widths = tuple(widths.values())
        self.row([_title(name).upper() for name in widths])

    def row(self, cells: Sequence[Any]) -> None:
        padded = (
            f"{as_text(cell):<{width}}" for cell, width in zip(cells, self._widths, strict=True)
        )
        _echo("  ".join(padded).rstrip())

    def rows(self, rows: Iterable[Sequence[Any]]) -> None:
        for cells in rows:
            self.row(cells)


class Records:
    """A list of records: a table whose columns are members of the records, or JSON."""

    def __init__(self, *, as_json: bool, **widths: int) -> None:
        """The widths of the columns, as for Table."""
        self._columns = tuple(widths)
        self._table = None if as_json else Table(**widths)

    def add(self, record: Mapping[str, Any], **cells: Any) -> None:
        """`cells` replace members of the record in the table, where they are easier to read."""
        if self._table is None:
            print_json(record)
            return
        shown = {**record, **cells}
        self._table.row([shown[name] for name in self._columns])


def _echo(line: str) -> None:
    try:
        click.echo(line)
    except BrokenPipeError:
        # The reader, such as `head`, has enough. Lists are printed while they are read, and an
        # OSError would count as an outage of the database.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        raise click.exceptions.Exit(1) from None


def as_text(value: Any) -> str:
    """For people. Times are in UTC. Characters that a terminal would obey are escaped: texts such
    as user agents come from strangers."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, Mapping):
        pairs = ((name, as_text(member)) for name, member in value.items())
        return " ".join(f"{name}={text}" for name, text in pairs if text)
    if isinstance(value, list | tuple | set | frozenset):
        return " ".join(map(as_text, value))
    text = str(value)
    return text if text.isprintable() else "".join(map(_escaped, text))


def counted(number: int, singular: str, plural: str | None = None) -> str:
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def scopes_text(scopes: Iterable[str]) -> str:
    return " ".join(sorted(scopes)) or "no scopes"


def _escaped(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def _json_value(value: Any) -> Any:
    """Times as the API writes them."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)


def _title(name: str) -> str:
    return name.replace("_", " ")
