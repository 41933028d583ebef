from typing import Annotated

from fastapi import Depends, Path, Request

from app.accounts.invitations.service import Invitations

InvitationId = Annotated[
    int, Path(ge=1, lt=2**63, description="The invitation's id.", examples=[3])
]


async def _invitations(request: Request) -> Invitations:
    invitations: Invitations = request.app.state.services.invitations
    return invitations


InvitationsDep = Annotated[Invitations, Depends(_invitations)]
