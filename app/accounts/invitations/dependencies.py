from typing import Annotated

from fastapi import Depends, Path, Request

from app.accounts.invitations.service import Invitations
from app.database.ids import Id

InvitationId = Annotated[Id, Path(description="The invitation's id.", examples=[3])]


async def _invitations(request: Request) -> Invitations:
    invitations: Invitations = request.app.state.services.invitations
    return invitations


InvitationsDep = Annotated[Invitations, Depends(_invitations)]
