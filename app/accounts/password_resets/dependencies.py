from typing import Annotated

from fastapi import Depends, Request

from app.accounts.password_resets.service import PasswordResets
from app.database.engine import SessionDep
from app.events import events_of
from app.mail.dependencies import MailDep
from app.users.dependencies import UsersDep


async def _password_resets(
    request: Request, session: SessionDep, users: UsersDep, mail: MailDep
) -> PasswordResets:
    throttle, events = request.app.state.throttle, events_of(request, session)
    return PasswordResets(session, users, throttle, events, mail)


PasswordResetsDep = Annotated[PasswordResets, Depends(_password_resets)]
