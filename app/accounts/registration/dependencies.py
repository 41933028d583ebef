"""Who may register."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request

from app.context import caller_of
from app.database.engine import SessionDep
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.service import Purpose
from app.security.rate_limits.service import INVITATION, REGISTRATION, Throttle, network_to_limit
from app.settings import Settings
from app.tokens.dependencies import NowDep
from app.users.errors import (
    InvitationRequiredError,
    RegistrationClosedError,
)


async def refuse_if_closed(request: Request) -> None:
    if request.app.state.settings.registration == "closed":
        raise RegistrationClosedError


async def _admit(
    request: Request, session: SessionDep, now: NowDep
) -> Callable[[str | None], Awaitable[None]]:
    throttle: Throttle = request.app.state.throttle
    settings: Settings = request.app.state.settings

    async def admit(invitation: str | None) -> None:
        if settings.registration == "invite" and invitation is None:
            raise InvitationRequiredError
        network = network_to_limit(caller_of(request).address)
        await throttle.count(session, "register", network, REGISTRATION)
        if invitation:
            found = await codes.find(session, invitation, now, Purpose.INVITE)
            await throttle.count(session, "invitation", str(found.id), INVITATION)

    return admit


# To be called with the invitation, once the rest of the request is known to be valid. Raises
# InvitationRequiredError, InvalidCodeError and TooManyAttemptsError.
AdmitRegistration = Annotated[Callable[[str | None], Awaitable[None]], Depends(_admit)]
