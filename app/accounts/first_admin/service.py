"""Creates the administrator that FIRST_ADMIN_USERNAME and FIRST_ADMIN_PASSWORD name, in a database
that has never had an administrator.

The account may be removed or demoted later. The settings must not bring it back with its old
password, so the row in `setup_steps` outlives it, and the audit log too.
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
    """Do nothing unless the settings name one.

    Raises StartupError for a name or password that no user can have.
    """
    if settings.first_admin_username is None:
        return
    mark_done = Subscriber(_mark_done, {"user.register"})
    users = Users(passwords, revocations, Events((*events.subscribers, mark_done)))
    if not await _has_had_one(context.session):
        try:
            account = _account(settings)
            await users.register(context, account, is_admin=True)
            _log.info("Created the first administrator")
        except UserExistsError:  # an ordinary user, or created by another worker a moment ago
            pass
        except IntegrityError:  # another worker, with other settings, created another one
            await context.session.rollback()
        except InvalidRequestError as refusal:
            raise StartupError(f"FIRST_ADMIN_PASSWORD: {refusal}") from None
    await _warn_if_none(context, users, settings.first_admin_username)


async def _mark_done(context: RequestContext, _: Event) -> None:
    """A subscriber: part of the transaction that registers the first administrator. If several
    workers start at once, one of them succeeds."""
    context.session.add(SetupStep(name=STEP, done_at=context.now))
    await context.session.flush()


async def _has_had_one(session: AsyncSession) -> bool:
    """Of administrators who were made by other means, one always remains (decision 11)."""
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
            "FIRST_ADMIN_USERNAME names no administrator, and none is created: %s. "
            "Make one with `hourpass %s`, or remove the setting",
            "this database has had one" if user is None else "another user has the name",
            "create-admin NAME" if user is None else "grant NAME admin",
        )
    elif not user.is_enabled:
        _log.warning("FIRST_ADMIN_USERNAME names an administrator who is disabled")
