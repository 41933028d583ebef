"""Passphrases: from a file, the terminal or standard input, never from an argument."""

import sys
from pathlib import Path

import click

from app.cli.operations import read_line

passphrase_file = click.option(
    "--passphrase-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read the passphrase from the first line of this file.",
)


def read(file: Path | None, *, is_new: bool = False, is_input_taken: bool = False) -> str:
    """Asks twice for a new one. `is_input_taken`: standard input has the backup."""
    if file is not None:
        with file.open(encoding="utf-8") as opened:
            return read_line(opened)
    if is_input_taken:
        raise click.UsageError("Use --passphrase-file: standard input has the backup.")
    if sys.stdin.isatty():
        passphrase: str = click.prompt(
            "Passphrase", hide_input=True, confirmation_prompt=is_new, err=True
        )
        return passphrase
    return read_line(sys.stdin)
