"""Who is calling, as a route's argument type."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Path, Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.caller import caller_of
from app.codes import service as codes
from app.codes.service import Purpose
from app.database import SessionDep
from app.events import events_of
from app.revocations.dependencies import revocations_of
from app.settings import Settings
from app.throttle.service import INVITATION, REGISTRATION, Throttle, network_to_limit
from app.tokens.dependencies import BearerToken, NowDep
from app.tokens.errors import InsufficientScopeError
from app.users.errors import (
    InvitationRequiredError,
    RegistrationClosedError,
    SecondFactorNeededError,
)
from app.users.proof import Proof
from app.users.service import Identity, Users
from app.users.verification import Verification, Verified

UserId = Annotated[int, Path(ge=1, lt=2**63, examples=[10])]


def users_of(request: Request, session: AsyncSession) -> Users:
    revocations, events = revocations_of(request, session), events_of(request, session)
    return Users(session, request.app.state.passwords, revocations, events)


async def _users(request: Request, session: SessionDep) -> Users:
    return users_of(request, session)


UsersDep = Annotated[Users, Depends(_users)]


def proof_of(request: Request, session: AsyncSession) -> Proof:
    state = request.app.state
    return Proof(
        session,
        users_of(request, session),
        state.passwords,
        state.throttle,
        events_of(request, session),
        caller_of(request),
    )


async def _proof(request: Request, session: SessionDep) -> Proof:
    return proof_of(request, session)


ProofDep = Annotated[Proof, Depends(_proof)]


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


def verification_of(request: Request, session: AsyncSession) -> Verification:
    state = request.app.state
    return Verification(state.memory, state.keys, users_of(request, session))


async def _verification(request: Request, session: SessionDep) -> Verification:
    return verification_of(request, session)


VerificationDep = Annotated[Verification, Depends(_verification)]


async def _bearer(
    request: Request, token: BearerToken, verification: VerificationDep, now: NowDep
) -> Verified:
    verified = await verification.verify(token, now)
    caller_of(request).user_id = verified.holder.id
    return verified


VerifiedBearer = Annotated[Verified, Depends(_bearer)]


async def _current_user(bearer: VerifiedBearer) -> Identity:
    return bearer.holder


CurrentUser = Annotated[Identity, Depends(_current_user)]


async def _current_admin(user: CurrentUser, request: Request) -> Identity:
    if "admin" not in user.scopes:
        settings: Settings = request.app.state.settings
        required = settings.admin_second_factor == "required"
        raise SecondFactorNeededError if required else InsufficientScopeError
    return user


CurrentAdmin = Annotated[Identity, Depends(_current_admin)]
