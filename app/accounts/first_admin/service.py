"""Creates the administrator that FIRST_ADMIN_USERNAME and FIRST_ADMIN_PASSWORD name, in a database
that has never had an administrator.

The account may be deleted or demoted later. The settings must not create it again with its old
password. So the row in `setup_steps` is kept, whatever happens to the account and the audit log.
"""

import logging

from pydantic import ValidationError
from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.first_admin.models import SetupStep
from app.context import RequestContext
from app.errors import InvalidRequestError, StartupError
from app.events import Event, Events, Subscriber
from app.security.passwords import Passwords
from app.settings import Settings
from app.tokens.revocations.service import Revocations
from app.users.errors import UserExistsError
from app.users.models import User
from app.users.schemas import NewAccount
from app.users.service import Users

STEP = "first_admin"

_log = logging.getLogger("hourpass")


async def create_first_admin(
    context: RequestContext,
    passwords: Passwords,
    revocations: Revocations,
    events: Events,
    settings: Settings,
) -> None:
    """Create the administrator, if the settings name one and there has never been any.

    Raises StartupError for a username or password that is not allowed.
    """
    if settings.first_admin_username is None:
        return
    mark_done = Subscriber(_mark_done, {"user.register"})
    users = Users(passwords, revocations, Events((*events.subscribers, mark_done)), settings)
    if not await _has_had_admin(context.session):
        try:
            account = _account(settings)
            await users.register(context, account, is_admin=True)
            _log.info("Created the first administrator")
        except UserExistsError:  # an ordinary user, or just created by another worker
            pass
        except IntegrityError:  # another worker with other settings was faster
            await context.session.rollback()
        except InvalidRequestError as refusal:
            raise StartupError(f"FIRST_ADMIN_PASSWORD: {refusal}") from None
    await _warn_if_none(context, users, settings.first_admin_username)


async def _mark_done(context: RequestContext, _: Event) -> None:
    """A subscriber, so in the transaction that registers the administrator. If several workers
    start at once, one of them succeeds."""
    context.session.add(SetupStep(name=STEP, done_at=context.now))
    await context.session.flush()


async def _has_had_admin(session: AsyncSession) -> bool:
    """Administrators who were created otherwise have no row. But the last administrator cannot be
    deleted (decision 11)."""
    done = select(SetupStep.name).where(SetupStep.name == STEP)
    administrator = select(User.id).where(User.is_admin)
    found = await session.scalar(select(or_(done.exists(), administrator.exists())))
    await session.commit()
    return bool(found)


def _account(settings: Settings) -> NewAccount:
    try:
        return NewAccount.model_validate(
            {"username": settings.first_admin_username, "password": settings.first_admin_password}
        )
    except ValidationError as error:
        problem = error.errors()[0]
        setting = f"FIRST_ADMIN_{problem['loc'][0]}".upper()
        raise StartupError(f"{setting}: {problem['msg']}") from None


async def _warn_if_none(context: RequestContext, users: Users, username: str) -> None:
    user = await users.find(context, username)
    if user is None or not user.is_admin:
        _log.warning(
            "FIRST_ADMIN_USERNAME is not an administrator, and none was created: %s. "
            "Create one with `hourpass %s`, or remove the setting",
            "this database has had one" if user is None else "a user has that name",
            "create-admin NAME" if user is None else "grant NAME admin",
        )
    elif not user.is_enabled:
        _log.warning("FIRST_ADMIN_USERNAME is a disabled administrator")
