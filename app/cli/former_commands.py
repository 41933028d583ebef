"""Commands from before version 0.2 that differ from their replacements.

They ask nothing, and the list of keys has its old format: scripts may rely on both.
"""

from datetime import UTC, datetime

import click

from app.cli import signing_keys
from app.cli.operations import DATABASE_ID
from app.cli.users import erase_by_id


@click.command()
@click.argument("user_id", type=DATABASE_ID)
def erase_user(user_id: int) -> None:
    """Erase a deleted user from the audit log, as `hourpass users erase --yes` does."""
    erase_by_id(user_id)


@click.group()
def keys() -> None:
    """List, rotate and revoke the signing keys, as `hourpass signing-keys` does."""


keys.add_command(signing_keys.rotate)


@keys.command("list")
def list_keys() -> None:
    """List the keys that verify tokens. A star marks the one that signs."""
    keyring = signing_keys.load_keyring()
    current = keyring.current(datetime.now(UTC))
    for key in keyring.keys:
        mark = "*" if key is current else " "
        click.echo(f"{mark} {key.kid}  {key.algorithm}  signs from {key.activates_at:%F %T} UTC")


@keys.command()
@click.argument("kid")
def revoke(kid: str) -> None:
    """Revoke a signing key and all tokens signed with it, without asking."""
    signing_keys.revoke_key(kid)
    click.echo(f"Revoked {kid}.")
