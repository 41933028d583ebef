"""`hourpass backup`."""

import sys
from pathlib import Path

import click

from app.cli import passphrases
from app.cli.operations import read_settings
from app.cli.output import counted


@click.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--encrypt", is_flag=True, help="Encrypt with a passphrase, which is asked for.")
@passphrases.passphrase_file
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def backup(file: Path, encrypt: bool, passphrase_file: Path | None, overwrite: bool) -> None:
    """Back up the database to FILE, or with - to standard output.

    The service can keep running. FILE is complete as soon as it exists, and only its owner can
    read it. Without a passphrase, it is a SQLite database, or with PostgreSQL a dump for
    pg_restore. A passphrase file encrypts it too. Never copy the running SQLite file by other
    means: the copy lacks recent changes.
    """
    from app.operations.backup.create import create

    settings = read_settings()
    target = None if str(file) == "-" else file
    if target is None and sys.stdout.isatty():
        raise click.UsageError("Standard output is a terminal. Name a file.")
    passphrase = None
    if encrypt or passphrase_file:
        passphrase = passphrases.read(passphrase_file, is_new=True)
    summary = create(settings, target, passphrase, output=sys.stdout.buffer, overwrite=overwrite)
    if target:
        size = target.stat().st_size
        click.echo(f"Backed up {counted(summary.users, 'user')} to {target} ({size:,} bytes).")
    if summary.needs_secret_key:
        click.echo(
            "It needs SECRET_KEY, which it does not have. Keep that, in another place.", err=True
        )
    elif passphrase is None:
        click.echo(
            "Its secrets are not encrypted. Keep it where nobody else can read it.", err=True
        )
    if not summary.is_noted:
        click.echo(
            "The audit log has no entry of it, because the database cannot be written, or has "
            "not been migrated.",
            err=True,
        )
