"""The verbs of accounts. Each does one thing from start to commit."""

import re
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, bindparam, delete, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import fast_queries
from app.database.engine import begin_write
from app.errors import InvalidRequestError
from app.events import Events
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.one_time_codes.service import Purpose
from app.security.passwords import Passwords
from app.security.rate_limits.rates import REGISTRATIONS
from app.security.rate_limits.service import allow
from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import Claims
from app.tokens.revocations.service import Revocations, not_revoked
from app.users.errors import LastAdminError, UserExistsError, UserNotFoundError
from app.users.models import NO_PASSWORD, User, fold_email, granted, new_token_epoch
from app.users.schemas import NewAccount, fold

_USER_ID = re.compile(r"[1-9][0-9]{0,17}")  # fits into 64 bits


class Identity(NamedTuple):
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


class Account(NamedTuple):
    """What a login needs of a user."""

    id: int
    username: str
    password_hash: str
    is_enabled: bool
    is_admin: bool
    scopes: str
    token_epoch: int

    def granted(self) -> set[str]:
        """Every scope that this user's tokens can have."""
        return granted(self.scopes, is_admin=self.is_admin)


@cache  # every login asks
def _account_and(fact: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    columns = (getattr(User, column) for column in Account._fields)
    return select(*columns, fact).where(User.username_folded == bindparam("name"))


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

    async def register(  # noqa: PLR0913 - what an account can begin with
        self,
        account: NewAccount,
        now: datetime,
        *,
        is_admin: bool = False,
        scopes: Collection[str] = (),
        invitation: str | None = None,
        is_counted: bool = False,
    ) -> int:
        """Create an enabled user and return its id. An invitation, which admission has looked at,
        is used up with success alone. `is_counted` is for users who are neither invited nor created
        by an administrator.

        Raises InvalidCodeError, UserExistsError, InvalidRequestError for a password that the
        policy refuses, HashingOverloadedError and TooManyAttemptsError.
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
            scopes=" ".join(sorted(scopes)),
            created_at=now,
        )
        await begin_write(self._session)
        if is_counted:
            await allow(self._session, "registrations", "", REGISTRATIONS)
        details: dict[str, Any] = {}
        if invitation:
            code = await codes.use(self._session, invitation, now, Purpose.INVITE)
            user.scopes = code.scopes
            # Not as they fold: strasse@ is another one's mailbox than straße@.
            if code.email and user.email and code.email.lower() == user.email.lower():
                user.email_verified_at = now
            details["invitation"] = str(code.id)
        if granted := user.granted():
            details["to"] = " ".join(sorted(granted))
        self._session.add(user)
        try:
            await self._session.flush()
        except IntegrityError:
            await self._session.rollback()
            raise UserExistsError(user_id=await self._find_id(account.username)) from None
        await self._events.announce("user.register", user.id, now, **details)
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

    async def account(
        self, username: str, fact: ColumnElement[bool]
    ) -> tuple[Account | None, bool]:
        """As find(), but quicker, and with the answer to a question about the user, which has to be
        a constant."""
        if "\0" in username:
            return None, False
        found = await fast_queries.run(self._session, _account_and(fact), {"name": fold(username)})
        if not found:
            return None, False
        *columns, holds = found[0]
        return Account(*columns), holds

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

    async def list_after(
        self,
        user_id: int,
        limit: int,
        search: str | None = None,
        *,
        is_enabled: bool | None = None,
        is_admin: bool | None = None,
    ) -> Sequence[User]:
        """At most `limit` users in the order of their ids, which begin after this one.

        `search` is the beginning of a name or a whole e-mail address.
        """
        query = select(User).where(User.id > user_id).order_by(User.id).limit(limit)
        if search is not None:
            is_named = User.username_folded.startswith(fold(search), autoescape=True)
            query = query.where(or_(is_named, User.email_folded == fold_email(search)))
        if is_enabled is not None:
            query = query.where(User.is_enabled.is_(is_enabled))
        if is_admin is not None:
            query = query.where(User.is_admin.is_(is_admin))
        return (await self._session.scalars(query)).all()

    async def set_enabled(self, user_id: int, now: datetime, *, enabled: bool) -> None:
        """Let a user in, or cut it off at once. Its tokens do not come back with it.

        Raises UserNotFoundError and LastAdminError.
        """
        await self.change(user_id, now, is_enabled=enabled)

    async def grant(self, user_id: int, scopes: set[str], now: datetime) -> None:
        """Set what the user's tokens may be used for; `admin` makes an administrator.

        Raises UserNotFoundError and LastAdminError.
        """
        others = " ".join(sorted(scopes - {"admin"}))
        await self.change(user_id, now, is_admin="admin" in scopes, scopes=others)

    async def change(
        self, user_id: int, now: datetime, *, epoch: int | None = None, **values: object
    ) -> User:
        """Set `email`, `email_verified`, `is_enabled`, `is_admin` or `scopes`, as a user has them.

        Raises UserNotFoundError, LastAdminError, InvalidRequestError for an address that is
        verified without being there, and InvalidTokenError as lock() does.
        """
        email_verified = values.pop("email_verified", None)
        user, is_last_admin = await self._lock_with_admins(user_id, epoch)
        changed = {name for name, value in values.items() if getattr(user, name) != value}
        for name in changed:
            setattr(user, name, values[name])
        if email_verified is not None and email_verified != user.email_verified:
            if user.email is None:
                raise InvalidRequestError.about("email_verified", "There is no e-mail address")
            user.email_verified_at = now if email_verified else None
            changed.add("email_verified")
        if is_last_admin and not (user.is_admin and user.is_enabled):
            await self._session.rollback()
            raise LastAdminError
        if changed & {"is_admin", "scopes"} or (changed & {"is_enabled"} and not user.is_enabled):
            await self._end_tokens(user)
        if changed & {"is_admin", "scopes"}:
            await self._events.announce(
                "user.grant", user_id, now, to=" ".join(sorted(user.granted()))
            )
        if "is_enabled" in changed:
            action = "user.enable" if user.is_enabled else "user.disable"
            await self._events.announce(action, user_id, now)
        if "email" in changed:
            await self._events.announce("user.change_email", user_id, now)
        if "email_verified" in changed:
            action = "user.verify_email" if user.email_verified else "user.doubt_email"
            await self._events.announce(action, user_id, now)
        await self._session.commit()
        return user

    async def end_tokens(self, user_id: int, now: datetime, epoch: int | None = None) -> None:
        """End every token and session of the user. Raises as lock() does."""
        await begin_write(self._session)
        await self.move_on(user_id, epoch)
        await self._events.announce("user.end_tokens", user_id, now)
        await self._session.commit()

    async def move_on(self, user_id: int, epoch: int | None = None) -> User:
        """As end_tokens(), but part of its caller's transaction. Raises as lock() does."""
        user = await self.lock(user_id, epoch)
        await self._end_tokens(user)
        return user

    async def lock(self, user_id: int, epoch: int | None = None) -> User:
        """The user as it is, which it stays until the caller's transaction ends.

        Raises UserNotFoundError, and InvalidTokenError if the user's tokens have been ended since
        the `epoch` in which the caller was let in: by a reset that was forced, say.
        """
        user = await self._session.get(
            User, user_id, populate_existing=True, with_for_update={"key_share": True}
        )
        if user is None:
            raise UserNotFoundError
        refuse_if_ended(user.token_epoch, epoch)
        return user

    async def change_password(
        self,
        user_id: int,
        password: str,
        now: datetime,
        *,
        field: str = "password",
        epoch: int | None = None,
    ) -> None:
        """`field` is what a refusal calls it.

        Raises InvalidRequestError and HashingOverloadedError, and as lock() does.
        """
        password_hash = await self.hash_password(user_id, password, field=field)
        await begin_write(self._session)
        user = await self.move_on(user_id, epoch)
        user.password_hash = password_hash
        await self._events.announce("user.change_password", user_id, now)
        await self._session.commit()

    async def hash_password(self, user_id: int, password: str, *, field: str = "password") -> str:
        """The hash of a new password, if the policy lets the user have it.

        Raises UserNotFoundError, InvalidRequestError and HashingOverloadedError.
        """
        user = await self.get(user_id)
        await self._session.commit()
        self._passwords.refuse_weak(password, user.username, user.email, field=field)
        return await self._passwords.hash(password)

    async def verify_email(self, user_id: int, code: str, now: datetime) -> User:
        """With the code that was sent there. Raises InvalidCodeError and UserNotFoundError."""
        await begin_write(self._session)
        user = await self.lock(user_id)
        used = await codes.use(self._session, code, now, Purpose.VERIFY, user_id=user_id)
        if user.email != used.email:
            raise InvalidCodeError
        user.email_verified_at = now
        await self._events.announce("user.verify_email", user_id, now)
        await self._session.commit()
        return user

    async def upgrade_hash(self, user: Account, password: str) -> None:
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

    async def remove(self, user_id: int, now: datetime, epoch: int | None = None) -> None:
        """Raises LastAdminError, and as lock() does."""
        user = await self._lock_unless_last_admin(user_id, epoch)
        await self._session.execute(delete(User).where(User.id == user_id))
        await self._revocations.publish(f"sub:{user_id}:{user.token_epoch}")
        await self._events.announce("user.remove", user_id, now)
        await self._session.commit()

    async def void_password(self, user_id: int) -> User:
        """Nobody logs in until a code has set another one; tokens and sessions end. Begins its
        caller's transaction. Raises UserNotFoundError and LastAdminError."""
        user = await self._lock_unless_last_admin(user_id)
        user.password_hash = NO_PASSWORD
        await self._end_tokens(user)
        return user

    async def _lock_unless_last_admin(self, user_id: int, epoch: int | None = None) -> User:
        user, is_last_admin = await self._lock_with_admins(user_id, epoch)
        if is_last_admin:
            await self._session.rollback()
            raise LastAdminError
        return user

    async def _lock_with_admins(self, user_id: int, epoch: int | None) -> tuple[User, bool]:
        """Begin to change or remove a user; says whether it is the last administrator who can log
        in, being enabled and having a password.

        With it all of those are locked, in the order of their ids: two who take each other away
        take turns, and the second one finds itself the last. Raises as lock() does.
        """
        await begin_write(self._session)
        has_password = User.password_hash != NO_PASSWORD
        found = await self._session.scalars(
            select(User)
            .where(or_(User.id == user_id, and_(User.is_admin, User.is_enabled, has_password)))
            .order_by(User.id)
            .with_for_update(key_share=True)
            .execution_options(populate_existing=True)
        )
        users = found.all()
        for user in users:
            if user.id == user_id:
                refuse_if_ended(user.token_epoch, epoch)
                return user, len(users) == 1 and user.is_admin and user.is_enabled
        await self._session.rollback()
        raise UserNotFoundError

    async def _end_tokens(self, user: User) -> None:
        """Move on to the next epoch, so that tokens and sessions of this one hold no longer."""
        await self._revocations.publish(f"sub:{user.id}:{user.token_epoch}")
        user.token_epoch = new_token_epoch()

    async def _find_id(self, username: str) -> int | None:
        found = await self._session.scalar(
            select(User.id).where(User.username_folded == fold(username))
        )
        await self._session.commit()
        return found


def refuse_if_ended(current: int, epoch: int | None) -> None:
    """Raises InvalidTokenError if the caller was let in in an epoch that is over."""
    if epoch is not None and epoch != current:
        raise InvalidTokenError
