"""Who is calling, as a route's argument type."""

from typing import Annotated

from fastapi import Depends, Path, Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.context import caller_of
from app.database.engine import SessionDep
from app.events import events_of
from app.settings import Settings
from app.tokens.dependencies import BearerToken, NowDep
from app.tokens.errors import InsufficientScopeError
from app.tokens.revocations.dependencies import revocations_of
from app.users.errors import (
    SecondFactorNeededError,
)
from app.users.reauthentication import Proof
from app.users.service import Identity, Users
from app.users.token_cache import Verification, Verified

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
