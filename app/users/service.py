"""The verbs of accounts. Each does one thing from start to commit."""

import re
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Delete, Update, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import begin_write
from app.passwords import Passwords
from app.tokens.errors import InvalidTokenError
from app.tokens.service import Claims
from app.users.errors import UserExistsError, UserNotFoundError
from app.users.models import User
from app.users.schemas import NewAccount, fold

_USER_ID = re.compile(r"[1-9][0-9]{0,17}")  # fits into 64 bits


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a valid token stands for."""

    id: int
    username: str
    is_admin: bool


class Users:
    def __init__(self, session: AsyncSession, passwords: Passwords) -> None:
        self._session = session
        self._passwords = passwords

    async def register(self, account: NewAccount, now: datetime, *, is_admin: bool = False) -> int:
        """Create an enabled user and return its id.

        Raises UserExistsError, InvalidRequestError for a password that the policy refuses, and
        HashingOverloadedError.
        """
        if existing := await self._find_id(account.username):
            raise UserExistsError(user_id=existing)  # spares the hash; the index below decides
        password = account.password.get_secret_value()
        self._passwords.refuse_weak(password, account.username, account.email)
        user = User(
            username=account.username,
            username_folded=fold(account.username),
            email=account.email,
            password_hash=await self._passwords.hash(password),
            is_admin=is_admin,
            created_at=now,
        )
        await begin_write(self._session)
        self._session.add(user)
        try:
            await self._session.commit()
        except IntegrityError:
            await self._session.rollback()
            raise UserExistsError(user_id=await self._find_id(account.username)) from None
        return user.id

    async def find(self, username: str) -> User | None:
        """The user of that name. Ends the transaction, so that no connection is held meanwhile."""
        user = await self._session.scalar(
            select(User).where(User.username_folded == fold(username))
        )
        await self._session.commit()
        return user

    async def get(self, user_id: int) -> User:
        """Raises UserNotFoundError."""
        if user := await self._session.get(User, user_id):
            return user
        raise UserNotFoundError

    async def holder(self, claims: Claims) -> Identity:
        """Whom the token stands for, if it still stands for anyone: asked on every request.

        Raises InvalidTokenError when the user is gone, disabled, or has ended its tokens.
        """
        if not _USER_ID.fullmatch(claims.subject):
            raise InvalidTokenError
        holders = await self._session.execute(
            select(User.id, User.username, User.is_admin).where(
                User.id == int(claims.subject),
                User.token_epoch == claims.epoch,
                User.is_enabled,
            )
        )
        if holder := holders.one_or_none():
            return Identity(*holder)
        raise InvalidTokenError

    async def set_enabled(self, user_id: int, *, enabled: bool) -> None:
        """Let a user in, or cut it off at once. Its tokens do not come back with it.

        Raises UserNotFoundError.
        """
        await self._update(
            user_id,
            is_enabled=enabled,
            token_epoch=User.token_epoch if enabled else User.token_epoch + 1,
        )

    async def change_password(self, user_id: int, password: str) -> None:
        """Raises UserNotFoundError, InvalidRequestError and HashingOverloadedError."""
        user = await self.get(user_id)
        await self._session.commit()
        self._passwords.refuse_weak(password, user.username, user.email)
        password_hash = await self._passwords.hash(password)
        await self._update(user_id, password_hash=password_hash, token_epoch=User.token_epoch + 1)

    async def upgrade_hash(self, user: User, password: str) -> None:
        """Replace a hash made with older means. The password stays, and so do the tokens."""
        password_hash = await self._passwords.hash(password)
        await self._session.execute(
            update(User)
            # Not if the password was changed meanwhile.
            .where(User.id == user.id, User.password_hash == user.password_hash)
            .values(password_hash=password_hash)
        )
        await self._session.commit()

    async def remove(self, user_id: int) -> None:
        """Raises UserNotFoundError."""
        await self._write(delete(User).where(User.id == user_id))

    async def _update(self, user_id: int, **values: object) -> None:
        await self._write(update(User).where(User.id == user_id).values(values))

    async def _write(self, statement: Update | Delete) -> None:
        await begin_write(self._session)
        written = await self._session.scalar(statement.returning(User.id))
        if written is None:
            raise UserNotFoundError
        await self._session.commit()

    async def _find_id(self, username: str) -> int | None:
        found = await self._session.scalar(
            select(User.id).where(User.username_folded == fold(username))
        )
        await self._session.commit()
        return found
