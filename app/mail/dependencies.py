from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.context import caller_of
from app.database.engine import SessionDep
from app.mail.service import Mail
from app.users.dependencies import users_of


def mail_of(request: Request, session: AsyncSession) -> Mail:
    users, settings = users_of(request, session), request.app.state.settings
    return Mail(session, users, caller_of(request), settings)


async def _mail(request: Request, session: SessionDep) -> Mail:
    return mail_of(request, session)


MailDep = Annotated[Mail, Depends(_mail)]
