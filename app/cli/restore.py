"""`hourpass restore` restores a backup of `hourpass backup`. `hourpass after-restore` is for a
database that was restored by other means, copied, or replaced by a standby that lacked the last
changes.

Such a database has the users, keys and revocations of some time ago. Tokens that were revoked since
then would be valid again, and ids that were assigned since then will be assigned again. So
everything that was issued before must be revoked, or what was revoked since must be known.
"""

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.cli import passphrases
from app.cli.operations import read_settings, run
from app.cli.output import Table, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.operations.backup.carry_over import Changes
    from app.operations.backup.make_safe import Restored

_MAX_NAMES = 20


@click.command()
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path, allow_dash=True)
)
@passphrases.passphrase_file
@click.option(
    "--check", "check_only", is_flag=True, help="Only verify the backup. Changes nothing."
)
@click.option(
    "--replace", is_flag=True, help="Replace a database that has users, and keep its file."
)
@click.option(
    "--previous",
    "former_url",
    metavar="URL",
    envvar="PREVIOUS_DATABASE_URL",
    help="The database to compare with. Use the variable PREVIOUS_DATABASE_URL for a URL with a "
    "password.  [default with SQLite: the replaced file]",
)
@click.option("--end-everything", is_flag=True, help="Revoke everything that was issued before.")
@click.option("--keep-everything", is_flag=True, help="Nothing was revoked since the backup.")
def restore(
    file: Path,
    passphrase_file: Path | None,
    check_only: bool,
    replace: bool,
    former_url: str | None,
    end_everything: bool,
    keep_everything: bool,
) -> None:
    """Restore a backup from FILE, or with - from standard input. Stop the service first.

    What was revoked since the backup is revoked or suspended in the restored database, as far as
    the previous database tells. If there is none, choose --end-everything or --keep-everything.
    With PostgreSQL, DATABASE_URL names an empty database, PREVIOUS_DATABASE_URL the previous one.
    """
    from app.operations.backup.make_safe import Options
    from app.operations.backup.restore import restore as restore_backup
    from app.operations.backup.sqlite_files import require_complete

    if end_everything and keep_everything:
        raise click.UsageError("Choose one of --end-everything and --keep-everything.")
    settings = read_settings()
    require_complete(file)
    is_input = str(file) == "-"
    options = Options(
        replace=replace,
        end_everything=end_everything,
        keep_everything=keep_everything,
        check_only=check_only,
        former_url=former_url,
    )
    with nullcontext(sys.stdin.buffer) if is_input else file.open("rb") as source:
        ask = partial(passphrases.read, passphrase_file, is_input_taken=is_input)
        restored = restore_backup(settings, source, ask, options)
    if check_only:
        _print_check(restored)
        return
    _print_changes(restored)
    if restored.former_file:
        click.echo(f"The former database is {restored.former_file}.")
    if restored.revoked_keys is not None and settings.signing_algorithm == "HS256":
        click.echo("Now change HS256_SECRET here and in your APIs: it signed the old tokens.")
    click.echo("Start the service, and repeat what was changed since: docs/restore.md has a list.")


def _print_check(found: "Restored") -> None:
    click.echo(f"The backup is whole. Its schema is {found.revision}.")
    if found.users:
        click.echo(f"Users: {found.users:,}.")
    if found.made_at:
        click.echo(f"Last entry of its audit log: {found.made_at:%F %T} UTC.")
    if found.encrypted_keys:
        click.echo("It needs SECRET_KEY, and this one decrypts its signing keys.")


def _print_changes(restored: "Restored") -> None:
    of = f" of {restored.made_at:%F %T} UTC" if restored.made_at else ""
    click.echo(f"Restored {counted(restored.users, 'user')} from the backup{of}.")
    if restored.changes is None:
        click.echo(f"Not known: what was revoked since. {restored.not_compared}.")
    else:
        click.echo("Carried over what was revoked since:")
        for line in _describe(restored.changes) or ["nothing"]:
            click.echo(f"  {line}")
    if restored.revoked_keys is not None:
        click.echo("Revoked all signing keys, tokens, sessions and one-time codes.")
        click.echo("Suspended all API keys. Resume those that were not revoked since.")
    if restored.audited:
        click.echo("\nChanges since the backup, which the restored database lacks:\n")
        table = Table(at=19, action=24, by=20, user=20)
        table.rows((f"{e.at:%F %T}", e.action, e.by, e.user) for e in restored.audited)
        if restored.not_listed:
            click.echo(f"and {restored.not_listed:,} more in the former database's audit log")
        click.echo()


def _describe(changes: "Changes") -> list[str]:
    named = (
        ("disabled users", changes.disabled),
        ("users with fewer scopes", changes.demoted),
        ("users who have to reset their password", changes.passwords),
        ("users whose address was removed, since it changed", changes.emails),
        ("users with a second factor that was removed or replaced", changes.second_factors),
    )
    lines = [f"{what}: {_names(names)}" for what, names in named if names]
    numbers = (
        ("suspended API keys", changes.api_keys),
        ("groups with fewer scopes or members", changes.groups),
        ("ended sessions", changes.sessions),
        ("deleted one-time codes", changes.codes),
        ("revoked signing keys", changes.signing_keys),
        ("disabled webhooks", changes.webhooks),
        ("revocations published again", changes.revocations),
    )
    return lines + [f"{what}: {number:,}" for what, number in numbers if number]


def _names(names: "Sequence[str]") -> str:
    more = f" and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


@click.command()
@click.confirmation_option(
    "--yes",
    prompt="Revoke every signing key, token, session and one-time code, and suspend every API key?",
    help="Do not ask.",
)
def after_restore() -> None:
    """Make a database safe that was restored by other means: revoke everything.

    Run it before the service starts on a database that was copied, restored from a dump, or
    replaced by a standby that lacked the last changes. All users have to log in again, and API keys
    work after they are resumed. `hourpass restore` does not need it.
    """
    from app.operations.backup.revoke_everything import revoke_everything

    kids = run(revoke_everything)
    number = counted(len(kids), "signing key")
    click.echo(f"Revoked {number} and all tokens, sessions and one-time codes.")
    click.echo("Suspended all API keys. Resume those that were not revoked since the backup.")
    if read_settings().signing_algorithm == "HS256":
        click.echo("Now change HS256_SECRET here and in your APIs: it signed the old tokens.")
    click.echo("Repeat what was changed after the backup: docs/restore.md has a list.")
