from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Query, status

from app.accounts.invitations.dependencies import InvitationId, InvitationsDep
from app.accounts.invitations.errors import InvitationNotFoundError
from app.accounts.invitations.schemas import (
    Invitation,
    InvitationCreated,
    InvitationPage,
    InvitationRequest,
    InvitationRevoked,
)
from app.errors import InvalidRequestError
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.http.pagination import PageQuery
from app.mail.errors import MailUnavailableError, NotMailedError
from app.mail.schemas import MailAgain
from app.security.rate_limits.errors import TooManyAttemptsError
from app.users.dependencies import ADMIN_CHANGE_ERRORS, ADMIN_ERRORS, CurrentAdmin

router = APIRouter(prefix="/invitations", tags=["Administration"])


@router.post(
    "",
    operation_id="createInvitation",
    summary="Create an invitation",
    response_description="The invitation was created.",
    status_code=status.HTTP_201_CREATED,
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS, InvalidRequestError, MailUnavailableError, TooManyAttemptsError
    ),
)
async def create_invitation(
    _: CurrentAdmin, new: InvitationRequest, invitations: InvitationsDep, context: ContextDep
) -> InvitationCreated:
    """Its code works for one registration, unless `REGISTRATION` is `closed`."""
    lifetime = timedelta(days=new.days)
    invitation, code = await invitations.create(
        context, new.email, new.scopes, lifetime, new.language
    )
    described = Invitation.model_validate(invitation).model_dump()
    return InvitationCreated(**described, code=None if new.email else code)


@router.get(
    "",
    operation_id="listInvitations",
    summary="List open invitations",
    response_description="A page of invitations.",
    responses=error_docs(*ADMIN_ERRORS, InvalidRequestError),
)
async def list_invitations(
    _: CurrentAdmin,
    invitations: InvitationsDep,
    query: Annotated[PageQuery, Query()],
    context: ContextDep,
) -> InvitationPage:
    """Oldest first, without their codes. Used and expired invitations are not listed."""
    found = await invitations.list(context, query.position or 0, query.limit + 1)
    page, next_cursor = query.paginate(found)
    shown = [Invitation.model_validate(invitation) for invitation in page]
    return InvitationPage(invitations=shown, next_cursor=next_cursor)


@router.post(
    "/{invitation_id}/resend",
    operation_id="resendInvitation",
    summary="Mail an invitation again",
    response_description="The invitation is queued to be mailed.",
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS,
        InvalidRequestError,
        InvitationNotFoundError,
        NotMailedError,
        MailUnavailableError,
        TooManyAttemptsError,
    ),
)
async def resend_invitation(
    _: CurrentAdmin,
    invitation_id: InvitationId,
    invitations: InvitationsDep,
    context: ContextDep,
    again: Annotated[MailAgain, Body(default_factory=MailAgain)],
) -> Invitation:
    """For mail that was refused or got lost. The codes of earlier mails of the invitation stay
    valid. Only one of them can be used."""
    return Invitation.model_validate(
        await invitations.resend(context, invitation_id, again.language)
    )


@router.delete(
    "/{invitation_id}",
    operation_id="takeBackInvitation",
    summary="Revoke an invitation",
    response_description="The invitation was revoked.",
    responses=error_docs(*ADMIN_CHANGE_ERRORS, InvalidRequestError, InvitationNotFoundError),
)
async def revoke_invitation(
    _: CurrentAdmin, invitation_id: InvitationId, invitations: InvitationsDep, context: ContextDep
) -> InvitationRevoked:
    """Its code becomes invalid. If it has not been mailed yet, it is not mailed."""
    await invitations.revoke(context, invitation_id)
    return InvitationRevoked()
