"""Who is calling, as a route's argument type."""

from typing import Annotated

from fastapi import Depends, Request

from app.database import SessionDep
from app.passwords import PasswordsDep
from app.tokens.dependencies import BearerClaims
from app.tokens.errors import InsufficientScopeError
from app.users.service import Identity, Users


async def _users(session: SessionDep, passwords: PasswordsDep) -> Users:
    return Users(session, passwords)


UsersDep = Annotated[Users, Depends(_users)]


async def _current_user(request: Request, claims: BearerClaims, users: UsersDep) -> Identity:
    identity = await users.holder(claims)
    request.state.user_id = identity.id  # for the log line
    return identity


CurrentUser = Annotated[Identity, Depends(_current_user)]


async def _current_admin(user: CurrentUser) -> Identity:
    if not user.is_admin:
        raise InsufficientScopeError
    return user


CurrentAdmin = Annotated[Identity, Depends(_current_admin)]
