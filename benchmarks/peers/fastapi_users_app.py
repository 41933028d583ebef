"""fastapi-users as its documentation sets it up: SQLAlchemy on SQLite, bearer tokens, JWTStrategy.

Ours are the hash's parameters, and one user.
"""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi_users import BaseUserManager, FastAPIUsers, UUIDIDMixin
from fastapi_users.authentication import AuthenticationBackend, BearerTransport, JWTStrategy
from fastapi_users.db import SQLAlchemyBaseUserTableUUID, SQLAlchemyUserDatabase
from fastapi_users.password import PasswordHelper
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from benchmarks.parameters import ARGON2_MEMORY_KIB, ARGON2_PASSES, EMAIL, PASSWORD

SECRET = "only signs the tokens of a benchmark"

engine = create_async_engine(f"sqlite+aiosqlite:///{os.environ['PEER_DATABASE']}")
sessions = async_sessionmaker(engine, expire_on_commit=False)
passwords = PasswordHelper(
    PasswordHash(
        [Argon2Hasher(memory_cost=ARGON2_MEMORY_KIB, time_cost=ARGON2_PASSES, parallelism=1)]
    )
)


class Base(DeclarativeBase):
    pass


class User(SQLAlchemyBaseUserTableUUID, Base):
    pass


class UserManager(UUIDIDMixin, BaseUserManager[User, uuid.UUID]):
    reset_password_token_secret = SECRET
    verification_token_secret = SECRET


async def session() -> AsyncIterator[AsyncSession]:
    async with sessions() as opened:
        yield opened


async def user_manager(session: Annotated[AsyncSession, Depends(session)]) -> UserManager:
    return UserManager(SQLAlchemyUserDatabase(session, User), passwords)


def strategy() -> JWTStrategy[User, uuid.UUID]:
    return JWTStrategy(secret=SECRET, lifetime_seconds=3600)


backend = AuthenticationBackend("jwt", BearerTransport(tokenUrl="login"), strategy)
users = FastAPIUsers[User, uuid.UUID](user_manager, [backend])
CurrentUser = Annotated[User, Depends(users.current_user(active=True))]


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with sessions() as opened:
        opened.add(User(email=EMAIL, hashed_password=passwords.hash(PASSWORD)))
        await opened.commit()
    yield


app = FastAPI(lifespan=lifespan)
app.include_router(users.get_auth_router(backend))


@app.get("/me")
async def me(user: CurrentUser) -> dict[str, str]:
    return {"id": str(user.id)}
