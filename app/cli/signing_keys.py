"""Commands for signing keys."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from app.cli.operations import run
from app.cli.output import Records, as_json, confirm, print_change, yes

if TYPE_CHECKING:
    from app.context import RequestContext
    from app.services import Services
    from app.tokens.signing_keys.keys import Keyring


@click.group()
def signing_keys() -> None:
    """List, rotate and revoke the signing keys."""


@signing_keys.command("list")
@as_json
def list_keys(*, as_json: bool) -> None:
    """List the keys that verify tokens, oldest first. `signing` is the one that signs."""
    keyring = load_keyring()
    now = datetime.now(UTC)
    current = keyring.current(now)
    records = Records(as_json=as_json, kid=16, algorithm=9, status=9, signs_from=0)
    for key in keyring.keys:
        status = "signing" if key is current else "announced"
        if key is not current and key.activates_at <= now:
            status = "retired"
        records.add(
            {
                "kid": key.kid,
                "algorithm": key.algorithm,
                "status": status,
                # With HS256, HS256_SECRET is the key, from the beginning.
                "signs_from": None if key.algorithm == "HS256" else key.activates_at,
            }
        )


@signing_keys.command()
@as_json
def rotate(*, as_json: bool) -> None:
    """Generate the next signing key.

    It is published at once, and signs after KEY_ANNOUNCE_SECONDS.
    """

    async def make(services: "Services", context: "RequestContext") -> str:
        from app.database.fast_queries import current_time

        # By the database's clock: all hosts compare the times at which keys sign and are deleted.
        context.now = await current_time(context.session)
        return await services.keys.rotate(context)

    kid = run(make)
    print_change({"kid": kid}, f"The next key is {kid}.", as_json=as_json)


@signing_keys.command()
@click.argument("kid")
@yes
@as_json
def revoke(kid: str, *, yes: bool, as_json: bool) -> None:
    """Revoke a signing key and all tokens signed with it.

    If it is the key that signs, all users have to log in again, or refresh their sessions.
    """
    confirm(f"Revoke {kid} and every token that it signed?", is_confirmed=yes)
    revoke_key(kid)
    print_change({"kid": kid}, f"Revoked {kid}.", as_json=as_json)


def load_keyring() -> "Keyring":
    return run(lambda services, context: services.keys.load(context))


def revoke_key(kid: str) -> None:
    """Without a question. Raises KeyNotFoundError."""

    async def revoke(services: "Services", context: "RequestContext") -> None:
        from app.database.engine import begin_write
        from app.database.fast_queries import current_time

        context.now = await current_time(context.session)
        await begin_write(context.session)
        await services.keys.revoke(context, kid)
        await services.revocations.publish(context, f"kid:{kid}")
        await services.events.publish(context, "key.revoke", None, kid=kid)
        await context.session.commit()

    run(revoke)
