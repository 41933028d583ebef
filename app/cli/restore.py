"""The command to run after a database was restored from a backup, copied, or replaced by a standby
that lacked the last changes.

Such a database has the users, keys and revocations of some time ago. Tokens that were revoked since
then would be valid again, and ids that were assigned since then will be assigned again. So
everything that was issued before must be revoked.
"""

import click

from app.cli.operations import read_settings, run


@click.command()
@click.confirmation_option(
    "--yes",
    prompt="Revoke every signing key, token, session and one-time code, and suspend every API key?",
    help="Do not ask.",
)
def after_restore() -> None:
    """Make a restored database safe: revoke everything that was issued before.

    Run it before the service starts on a database that was restored from a backup, copied, or
    replaced by a standby that lacked the last changes. All users have to log in again, and API keys
    work after they are resumed.
    """
    from app.cli.revoke_everything import revoke_everything

    kids = run(revoke_everything)
    number = "1 signing key" if len(kids) == 1 else f"{len(kids)} signing keys"
    click.echo(f"Revoked {number} and all tokens, sessions and one-time codes.")
    click.echo("Suspended all API keys. Resume those that were not revoked since the backup.")
    if read_settings().signing_algorithm == "HS256":
        click.echo("Now change HS256_SECRET here and in your APIs: it signed the old tokens.")
    click.echo("Repeat what was changed after the backup: docs/restore.md has a list.")
