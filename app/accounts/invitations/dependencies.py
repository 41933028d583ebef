from typing import Annotated

from fastapi import Depends, Path, Request

from app.accounts.invitations.service import Invitations
from app.database.engine import SessionDep
from app.events import events_of
from app.mail.dependencies import MailDep

InvitationId = Annotated[int, Path(ge=1, lt=2**63, examples=[3])]


async def _invitations(request: Request, session: SessionDep, mail: MailDep) -> Invitations:
    return Invitations(session, events_of(request, session), mail)


InvitationsDep = Annotated[Invitations, Depends(_invitations)]
