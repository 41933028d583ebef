"""The verbs of accounts. Each does one thing from start to commit."""

import re
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Delete, Update, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import begin_write
from app.events import Events
from app.passwords import Passwords
from app.revocations.service import Revocations, not_revoked
from app.tokens.errors import InvalidTokenError
from app.tokens.service import Claims
from app.users.errors import UserExistsError, UserNotFoundError
from app.users.models import User
from app.users.schemas import NewAccount, fold

_USER_ID = re.compile(r"[1-9][0-9]{0,17}")  # fits into 64 bits


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a valid token stands for, and what it may be used for."""

    id: int
    username: str
    scopes: frozenset[str]

    @classmethod
    def of(cls, claims: Claims) -> "Identity":
        """Raises InvalidTokenError if the token's subject is no user."""
        if not _USER_ID.fullmatch(claims.subject):
            raise InvalidTokenError
        return cls(int(claims.subject), claims.username, claims.scopes)


class Users:
    def __init__(
        self,
        session: AsyncSession,
        passwords: Passwords,
        revocations: Revocations,
        events: Events,
    ) -> None:
        self._session = session
        self._passwords = passwords
        self._revocations = revocations
        self._events = events

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
            await self._session.flush()
        except IntegrityError:
            await self._session.rollback()
            raise UserExistsError(user_id=await self._find_id(account.username)) from None
        await self._events.announce("user.register", user.id, now)
        await self._session.commit()
        return user.id

    async def find(self, username: str) -> User | None:
        """The user of that name. Ends the transaction, so that no connection is held meanwhile."""
        if "\0" in username:
            return None  # PostgreSQL refuses even to look for it
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

    async def confirm(self, claims: Claims) -> None:
        """Ask the database whether the token still stands for its user.

        Raises InvalidTokenError when the user is gone or disabled, or the token has been ended.
        """
        confirmed = await self._session.scalar(
            select(User.id).where(
                User.id == Identity.of(claims).id,
                User.token_epoch == claims.epoch,
                User.is_enabled,
                not_revoked(claims.revocable()),
            )
        )
        if confirmed is None:
            raise InvalidTokenError

    async def set_enabled(self, user_id: int, now: datetime, *, enabled: bool) -> None:
        """Let a user in, or cut it off at once. Its tokens do not come back with it.

        Raises UserNotFoundError.
        """
        if enabled:
            await self._write(_change(user_id, is_enabled=True))
            await self._events.announce("user.enable", user_id, now)
            await self._session.commit()
        else:
            await self._move_on("user.disable", user_id, now, is_enabled=False)

    async def end_tokens(self, user_id: int, now: datetime) -> None:
        """End every token and session of the user. Raises UserNotFoundError."""
        await self._move_on("user.end_tokens", user_id, now)

    async def change_password(self, user_id: int, password: str, now: datetime) -> None:
        """Raises UserNotFoundError, InvalidRequestError and HashingOverloadedError."""
        user = await self.get(user_id)
        await self._session.commit()
        self._passwords.refuse_weak(password, user.username, user.email)
        password_hash = await self._passwords.hash(password)
        await self._move_on("user.change_password", user_id, now, password_hash=password_hash)

    async def grant(self, user_id: int, scopes: set[str], now: datetime) -> None:
        """Set what the user's tokens may be used for; `admin` makes an administrator.

        Raises UserNotFoundError.
        """
        others = " ".join(sorted(scopes - {"admin"}))
        await self._move_on("user.grant", user_id, now, is_admin="admin" in scopes, scopes=others)

    async def upgrade_hash(self, user: User, password: str) -> None:
        """Replace a hash made with older means. The password stays, and so do the tokens."""
        password_hash = await self._passwords.hash(password)
        await begin_write(self._session)
        await self._session.execute(
            update(User)
            # Not if the password was changed meanwhile.
            .where(User.id == user.id, User.password_hash == user.password_hash)
            .values(password_hash=password_hash)
        )
        await self._session.commit()

    async def remove(self, user_id: int, now: datetime) -> None:
        """Raises UserNotFoundError."""
        epoch = await self._write(delete(User).where(User.id == user_id))
        await self._revocations.publish(f"sub:{user_id}:{epoch}", now)
        await self._events.announce("user.remove", user_id, now)
        await self._session.commit()

    async def _move_on(self, action: str, user_id: int, now: datetime, **changes: object) -> None:
        await begin_write(self._session)
        await self.move_on(user_id, now, **changes)
        await self._events.announce(action, user_id, now)
        await self._session.commit()

    async def move_on(self, user_id: int, now: datetime, **changes: object) -> None:
        """Move on to the next epoch, so that tokens and sessions of this one hold no longer.

        Part of its caller's transaction. Raises UserNotFoundError.
        """
        next_epoch = _change(user_id, token_epoch=User.token_epoch + 1, **changes)
        epoch = await self._session.scalar(next_epoch.returning(User.token_epoch))
        if epoch is None:
            raise UserNotFoundError
        await self._revocations.publish(f"sub:{user_id}:{epoch - 1}", now)

    async def _write(self, statement: Update | Delete) -> int:
        """The epoch of the one user written to. Raises UserNotFoundError if there was none."""
        await begin_write(self._session)
        epoch: int | None = await self._session.scalar(statement.returning(User.token_epoch))
        if epoch is None:
            raise UserNotFoundError
        return epoch

    async def _find_id(self, username: str) -> int | None:
        found = await self._session.scalar(
            select(User.id).where(User.username_folded == fold(username))
        )
        await self._session.commit()
        return found


def _change(user_id: int, **values: object) -> Update:
    return update(User).where(User.id == user_id).values(values)
