"""The command to run after a database was restored from a backup, copied, or replaced by a standby
that lacked the last changes.

Such a database has the users, keys and revocations of some time ago. Tokens that were revoked since
then would be valid again, and ids that were assigned since then will be assigned again. So
everything that was issued before must be revoked.
"""

import secrets

import click
from sqlalchemy import BigInteger, cast, delete, func, select, update

from app.cli.operations import read_settings, run
from app.context import RequestContext
from app.credentials.api_keys.models import ApiKey
from app.credentials.sessions.models import Session
from app.database.engine import begin_write
from app.database.timelines import skip_ids
from app.security.one_time_codes.models import Code
from app.services import Services
from app.users.models import MAX_TOKEN_VERSION, User


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
    kids = run(revoke_everything)
    number = "1 signing key" if len(kids) == 1 else f"{len(kids)} signing keys"
    click.echo(f"Revoked {number} and all tokens, sessions and one-time codes.")
    click.echo("Suspended all API keys. Resume those that were not revoked since the backup.")
    if read_settings().signing_algorithm == "HS256":
        click.echo("Now change HS256_SECRET here and in your APIs: it signed the old tokens.")
    click.echo("Repeat what was changed after the backup: docs/restore.md has a list.")


async def revoke_everything(services: Services, context: RequestContext) -> list[str]:
    """Revoke every signing key, token, session and one-time code, suspend every API key, which may
    have been revoked since the backup, skip the ids that may have been assigned since then, and
    rename the revocation feed, so that every guard reads it from the beginning. Returns the kids of
    the revoked keys.

    Safe to repeat, and while workers run.
    """
    session = context.session
    await begin_write(session)
    # For HS256 tokens, whose secret only the operator can replace.
    shift = secrets.randbelow(MAX_TOKEN_VERSION) + 1
    shifted = (cast(User.token_version, BigInteger) + shift) % (MAX_TOKEN_VERSION + 1)
    whole_table = {"synchronize_session": False}
    # Locked in the order of their ids, as everywhere, so that there is no deadlock. Whatever locks
    # more than one row of the other tables locks the user first.
    locked = select(User.id).order_by(User.id).with_for_update().subquery()
    await session.execute(select(func.count()).select_from(locked))
    await session.execute(update(User).values(token_version=shifted), execution_options=whole_table)
    await session.execute(delete(Session), execution_options=whole_table)
    await session.execute(delete(Code), execution_options=whole_table)
    works = (ApiKey.suspended_at.is_(None), ApiKey.revoked_at.is_(None))
    in_order = select(ApiKey.id).where(*works).order_by(ApiKey.id).with_for_update()
    await session.execute(
        update(ApiKey).where(ApiKey.id.in_(in_order)).values(suspended_at=context.now),
        execution_options=whole_table,
    )
    await skip_ids(session)
    kids = await services.keys.revoke_all(context)
    for kid in kids:
        await services.revocations.publish(context, f"kid:{kid}")
    await services.revocations.rename_feed(context)
    await services.events.publish(context, "service.after_restore", None)
    await session.commit()
    return kids
