"""Who is calling, as a route's argument type."""

from typing import Annotated

from fastapi import Depends, Path, Request

from app.database import SessionDep
from app.passwords import PasswordsDep
from app.revocations.dependencies import RevocationsDep
from app.tokens.dependencies import BearerToken, LiveKeysDep, NowDep
from app.tokens.errors import InsufficientScopeError
from app.users.service import Identity, Users
from app.users.verification import Verification, Verified

UserId = Annotated[int, Path(ge=1, lt=2**63, examples=[10])]


async def _users(
    session: SessionDep, passwords: PasswordsDep, revocations: RevocationsDep
) -> Users:
    return Users(session, passwords, revocations)


UsersDep = Annotated[Users, Depends(_users)]


async def _verification(request: Request, keys: LiveKeysDep, users: UsersDep) -> Verification:
    return Verification(request.app.state.memory, keys, users)


VerificationDep = Annotated[Verification, Depends(_verification)]


async def _bearer(
    request: Request, token: BearerToken, verification: VerificationDep, now: NowDep
) -> Verified:
    verified = await verification.verify(token, now)
    request.state.user_id = verified.holder.id  # for the log line
    return verified


VerifiedBearer = Annotated[Verified, Depends(_bearer)]


async def _current_user(bearer: VerifiedBearer) -> Identity:
    return bearer.holder


CurrentUser = Annotated[Identity, Depends(_current_user)]


async def _current_admin(user: CurrentUser) -> Identity:
    if "admin" not in user.scopes:
        raise InsufficientScopeError
    return user


CurrentAdmin = Annotated[Identity, Depends(_current_admin)]
