"""Commands for signing keys."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from app.cli.operations import run

if TYPE_CHECKING:
    from app.context import RequestContext
    from app.services import Services
    from app.tokens.signing_keys.keys import Keyring


@click.group()
def keys() -> None:
    """List, rotate and revoke the signing keys."""


@keys.command("list")
def list_keys() -> None:
    """List the keys that verify tokens. The current one is marked."""

    async def load(services: "Services", context: "RequestContext") -> "Keyring":
        return await services.keys.load(context)

    keyring = run(load)
    current = keyring.current(datetime.now(UTC))
    for key in keyring.keys:
        mark = "*" if key is current else " "
        click.echo(f"{mark} {key.kid}  {key.algorithm}  signs from {key.activates_at:%F %T} UTC")


@keys.command()
def rotate() -> None:
    """Generate the next signing key.

    It is published at once, and signs after KEY_ANNOUNCE_SECONDS.
    """

    async def make(services: "Services", context: "RequestContext") -> str:
        from app.database.fast_queries import current_time

        # By the database's clock: all hosts compare the times at which keys sign and are deleted.
        context.now = await current_time(context.session)
        return await services.keys.rotate(context)

    click.echo(f"The next key is {run(make)}.")


@keys.command()
@click.argument("kid")
def revoke(kid: str) -> None:
    """Revoke a signing key and all tokens signed with it."""

    async def revoke_key(services: "Services", context: "RequestContext") -> None:
        from app.database.engine import begin_write
        from app.database.fast_queries import current_time

        context.now = await current_time(context.session)
        await begin_write(context.session)
        await services.keys.revoke(context, kid)
        await services.revocations.publish(context, f"kid:{kid}")
        await services.events.publish(context, "key.revoke", None, kid=kid)
        await context.session.commit()

    run(revoke_key)
    click.echo(f"Revoked {kid}.")
