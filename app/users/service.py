"""Operations on user accounts. Each is a transaction of its own, unless it says otherwise."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import and_, delete, or_, select
from sqlalchemy.exc import IntegrityError

from app.context import RequestContext
from app.database.engine import begin_write
from app.database.locks import locked_in_order
from app.database.timelines import require_unused_ids
from app.errors import InvalidRequestError
from app.events import Events
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.one_time_codes.service import Purpose
from app.security.passwords import Passwords
from app.security.rate_limits.limits import REGISTRATIONS
from app.security.rate_limits.service import enforce_limit, forget_account
from app.settings import Settings
from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import SERVICE, Claims
from app.tokens.revocations.service import Revocations, is_not_revoked
from app.tokens.scopes import summarize
from app.tokens.token_size import require_room
from app.users.authenticated_user import AuthenticatedUser
from app.users.errors import (
    LastAdminError,
    ServiceAccountError,
    UserExistsError,
    UserNotFoundError,
)
from app.users.login_account import normalize_username
from app.users.models import (
    UNUSABLE_PASSWORD,
    User,
    is_same_mailbox,
    new_token_version,
)
from app.users.schemas import SERVICE_PREFIX, NewAccount, has_service_prefix, normalize_typed_email
from hourpass.scopes import scope_string


class Users:
    def __init__(
        self, passwords: Passwords, revocations: Revocations, events: Events, settings: Settings
    ) -> None:
        self._settings = settings
        self._passwords = passwords
        self._revocations = revocations
        self._events = events

    async def register(  # noqa: PLR0913 - everything that a new account can have
        self,
        context: RequestContext,
        account: NewAccount,
        *,
        is_admin: bool = False,
        scopes: Collection[str] = (),
        invitation: str | None = None,
        is_counted: bool = False,
    ) -> int:
        """Create an enabled user and return its id. The invitation is used only if that succeeds.
        `is_counted` is for users who are neither invited nor created by an administrator.

        Raises InvalidCodeError, UserExistsError, InvalidRequestError for a password that the
        policy refuses and for scopes that are too long for a token, HashingOverloadedError and
        TooManyAttemptsError.
        """
        _refuse_service_prefix(account.username)
        require_room(self._settings, scopes)
        if existing := await self._find_id(context, account.username):
            # Spares the hash. The unique index decides in add().
            raise UserExistsError(user_id=existing)
        password = account.password.get_secret_value()
        self._passwords.validate_new(password, account.username, account.email)
        user = User(
            username=account.username,
            username_folded=normalize_username(account.username),
            email=account.email,
            password_hash=await self._passwords.hash(password),
            is_admin=is_admin,
            scopes=scope_string(scopes),
            created_at=context.now,
        )
        await begin_write(context.session)
        await require_unused_ids(context.session)
        if is_counted:
            await enforce_limit(context.session, "registrations", "", REGISTRATIONS)
        details: dict[str, Any] = {}
        if invitation:
            code = await codes.use(context, invitation, Purpose.INVITE)
            user.scopes = code.scopes
            if code.email and user.email and is_same_mailbox(code.email, user.email):
                user.email_verified_at = context.now
            details["invitation"] = str(code.id)
        return await self.add(context, user, "user.register", **details)

    async def create(
        self,
        context: RequestContext,
        username: str,
        email: str | None,
        *,
        is_admin: bool = False,
        scopes: Collection[str] = (),
    ) -> int:
        """Create an enabled user without a password, and return its id. Only the code of a password
        reset can set one.

        Raises UserExistsError, and InvalidRequestError for the name of a service account and for
        scopes that are too long for a token.
        """
        _refuse_service_prefix(username)
        require_room(self._settings, scopes)
        user = User(
            username=username,
            username_folded=normalize_username(username),
            email=email,
            password_hash=UNUSABLE_PASSWORD,
            is_admin=is_admin,
            scopes=scope_string(scopes),
            created_at=context.now,
        )
        await begin_write(context.session)
        await require_unused_ids(context.session)
        return await self.add(context, user, "user.register")

    async def add(self, context: RequestContext, user: User, action: str, **details: Any) -> int:
        """Insert a new user, publish the action, end the caller's transaction and return the id.

        Raises UserExistsError: the unique index decides between simultaneous registrations.
        """
        context.session.add(user)
        try:
            await context.session.flush()
        except IntegrityError:
            await context.session.rollback()
            raise UserExistsError(user_id=await self._find_id(context, user.username)) from None
        if granted := user.granted_scopes():
            details["to"] = summarize(granted)
        await self._events.publish(context, action, user.id, **details)
        await context.session.commit()
        return user.id

    async def find(self, context: RequestContext, username: str) -> User | None:
        """The user with that name, or None."""
        query = select(User).where(User.username_folded == normalize_username(username))
        return await context.session.scalar(query)

    async def get(self, context: RequestContext, user_id: int) -> User:
        """Raises UserNotFoundError."""
        if user := await context.session.get(User, user_id):
            return user
        raise UserNotFoundError

    async def require_active(self, context: RequestContext, claims: Claims) -> None:
        """Ask the database whether the token is still valid.

        Raises InvalidTokenError if the user is deleted or disabled, or the token is revoked.
        """
        confirmed = await context.session.scalar(
            select(User.id).where(
                User.id == AuthenticatedUser.of(claims).id,
                User.token_version == claims.token_version,
                User.is_enabled,
                is_not_revoked(claims.revocation_keys()),
            )
        )
        if confirmed is None:
            raise InvalidTokenError

    async def list(  # noqa: PLR0913 - the filters
        self,
        context: RequestContext,
        after_id: int,
        limit: int,
        *,
        search: str | None = None,
        is_enabled: bool | None = None,
        is_admin: bool | None = None,
        kind: str | None = None,
    ) -> Sequence[User]:
        """At most `limit` users with ids above `after_id`, in the order of their ids.

        `search` is the beginning of a username, or a whole e-mail address in any spelling.
        """
        query = select(User).where(User.id > after_id).order_by(User.id).limit(limit)
        if search is not None:
            is_named = User.username_folded.startswith(normalize_username(search), autoescape=True)
            query = query.where(or_(is_named, User.email_folded == normalize_typed_email(search)))
        if is_enabled is not None:
            query = query.where(User.is_enabled.is_(is_enabled))
        if is_admin is not None:
            query = query.where(User.is_admin.is_(is_admin))
        if kind is not None:
            query = query.where(User.kind == kind)
        return (await context.session.scalars(query)).all()

    async def set_enabled(self, context: RequestContext, user_id: int, *, enabled: bool) -> None:
        """Enable a user, or disable it and revoke its tokens. Enabling does not restore them.

        Raises UserNotFoundError and LastAdminError.
        """
        await self.change(context, user_id, is_enabled=enabled)

    async def set_scopes(self, context: RequestContext, user_id: int, scopes: set[str]) -> None:
        """Set the user's scopes. With `admin`, the user is an administrator.

        Raises the errors of change().
        """
        await self.change_scopes(context, user_id, lambda _: scopes)

    async def change_scopes(
        self, context: RequestContext, user_id: int, change: Callable[[set[str]], set[str]]
    ) -> tuple[set[str], set[str]]:
        """Set the user's scopes to what `change` returns for them. Returns those before and after.

        Raises the errors of change().
        """
        user, is_last_admin = await self._lock_with_admins(context, user_id, None)
        before = user.granted_scopes()
        after = change(before)
        values = {"is_admin": "admin" in after, "scopes": scope_string(after - {"admin"})}
        await self._change_locked(context, user, values, is_last_admin=is_last_admin)
        return before, after

    async def change(
        self,
        context: RequestContext,
        user_id: int,
        *,
        token_version: int | None = None,
        **values: object,
    ) -> User:
        """Set `email`, `email_verified`, `is_enabled`, `is_admin` or `scopes`, in the format of the
        table.

        Raises UserNotFoundError, LastAdminError, InvalidTokenError as lock() does,
        ServiceAccountError for the `email` of a service account, and InvalidRequestError for
        `email_verified` without an e-mail address and for scopes that are too long for a token.
        """
        user, is_last_admin = await self._lock_with_admins(context, user_id, token_version)
        return await self._change_locked(context, user, values, is_last_admin=is_last_admin)

    async def _change_locked(
        self,
        context: RequestContext,
        user: User,
        values: dict[str, Any],
        *,
        is_last_admin: bool,
    ) -> User:
        if values.get("email"):
            await _require_person(context, user)
        scopes = set(values.get("scopes", "").split())
        if scopes - set(user.scopes.split()):
            require_room(self._settings, scopes)
        email_verified = values.pop("email_verified", None)
        changed = {name for name, value in values.items() if getattr(user, name) != value}
        former_email = user.email if user.email_verified else None
        for name in changed:
            setattr(user, name, values[name])
        if former_email and user.email and is_same_mailbox(former_email, user.email):
            former_email = None
        if email_verified is not None and email_verified != user.email_verified:
            if user.email is None:
                raise InvalidRequestError.for_field("email_verified", "There is no e-mail address")
            user.email_verified_at = context.now if email_verified else None
            changed.add("email_verified")
        if is_last_admin and not (user.is_admin and user.is_enabled):
            await context.session.rollback()
            raise LastAdminError
        if changed & {"is_admin", "scopes"} or (changed & {"is_enabled"} and not user.is_enabled):
            await self._revoke_tokens(context, user)
        await self._publish_changes(context, user, changed, former_email)
        await context.session.commit()
        return user

    async def _publish_changes(
        self, context: RequestContext, user: User, changed: set[str], former_email: str | None
    ) -> None:
        """`former_email` is the verified address before the change, if it was another mailbox."""
        if changed & {"is_admin", "scopes"}:
            await self._events.publish(
                context, "user.grant", user.id, to=summarize(user.granted_scopes())
            )
        if "is_enabled" in changed:
            action = "user.enable" if user.is_enabled else "user.disable"
            await self._events.publish(context, action, user.id)
        if "email" in changed:
            former = {"former_email": former_email} if former_email else {}
            await self._events.publish(context, "user.change_email", user.id, former)
        if "email_verified" in changed:
            action = "user.verify_email" if user.email_verified else "user.unverify_email"
            await self._events.publish(context, action, user.id)

    async def revoke_tokens(
        self, context: RequestContext, user_id: int, token_version: int | None = None
    ) -> None:
        """Revoke every token and session of the user. Raises the errors of lock()."""
        await begin_write(context.session)
        await self.bump_token_version(context, user_id, token_version)
        await self._events.publish(context, "user.revoke_tokens", user_id)
        await context.session.commit()

    async def bump_token_version(
        self, context: RequestContext, user_id: int, token_version: int | None = None
    ) -> User:
        """Like revoke_tokens(), but part of the caller's transaction and without an event."""
        user = await self.lock(context, user_id, token_version)
        await self._revoke_tokens(context, user)
        return user

    async def lock(
        self, context: RequestContext, user_id: int, token_version: int | None = None
    ) -> User:
        """Returns the user, locked until the end of the caller's transaction.

        Raises UserNotFoundError, and InvalidTokenError if the user's tokens have been revoked since
        a token of `token_version` was checked, for example by a forced password reset.
        """
        user = await context.session.get(
            User, user_id, populate_existing=True, with_for_update={"key_share": True}
        )
        if user is None:
            raise UserNotFoundError
        require_token_version(user.token_version, token_version)
        return user

    async def change_password(
        self,
        context: RequestContext,
        user_id: int,
        password: str,
        *,
        field: str = "password",
        token_version: int | None = None,
    ) -> None:
        """Revokes the user's tokens and sessions. `field` names the password in errors.

        Raises InvalidRequestError, HashingOverloadedError, and the errors of lock().
        """
        password_hash = await self.hash_password(context, user_id, password, field=field)
        await begin_write(context.session)
        user = await self.bump_token_version(context, user_id, token_version)
        user.password_hash = password_hash
        await self._events.publish(context, "user.change_password", user_id)
        await context.session.commit()

    async def hash_password(
        self, context: RequestContext, user_id: int, password: str, *, field: str
    ) -> str:
        """The hash of a new password, if the policy accepts it.

        Raises UserNotFoundError, ServiceAccountError, InvalidRequestError and
        HashingOverloadedError.
        """
        user = await self.get(context, user_id)
        await _require_person(context, user)
        await context.session.commit()
        self._passwords.validate_new(password, user.username, user.email, field=field)
        return await self._passwords.hash(password)

    async def verify_email(self, context: RequestContext, user_id: int, code: str) -> User:
        """Verify the user's e-mail address with the code that was sent there.

        Raises InvalidCodeError and UserNotFoundError.
        """
        await begin_write(context.session)
        user = await self.lock(context, user_id)
        used = await codes.use(context, code, Purpose.VERIFY, user_id=user_id)
        if user.email != used.email:
            raise InvalidCodeError
        user.email_verified_at = context.now
        await self._events.publish(context, "user.verify_email", user_id)
        await context.session.commit()
        return user

    async def remove(
        self, context: RequestContext, user_id: int, token_version: int | None = None
    ) -> None:
        """Delete the user, revoke its tokens, and forget the counters of its name. Raises
        LastAdminError, and the errors of lock()."""
        user = await self._lock_unless_last_admin(context, user_id, token_version)
        await context.session.execute(delete(User).where(User.id == user_id))
        await forget_account(context.session, user.username_folded)
        await self._revocations.publish(context, f"sub:{user_id}:{user.token_version}")
        await self._events.publish(context, "user.remove", user_id)
        await context.session.commit()

    async def invalidate_password(self, context: RequestContext, user_id: int) -> User:
        """Revoke the password, tokens and sessions; only a code can set a new password. Begins the
        caller's transaction. Raises UserNotFoundError, ServiceAccountError and LastAdminError."""
        user = await self._lock_unless_last_admin(context, user_id)
        await _require_person(context, user)
        user.password_hash = UNUSABLE_PASSWORD
        await self._revoke_tokens(context, user)
        return user

    async def _lock_unless_last_admin(
        self, context: RequestContext, user_id: int, token_version: int | None = None
    ) -> User:
        user, is_last_admin = await self._lock_with_admins(context, user_id, token_version)
        if is_last_admin:
            await context.session.rollback()
            raise LastAdminError
        return user

    async def _lock_with_admins(
        self, context: RequestContext, user_id: int, token_version: int | None
    ) -> tuple[User, bool]:
        """Begin to change or delete a user. Returns the user, and whether it is the last
        administrator who is enabled and has a password.

        Locks all of those, in the order of their ids. So if two administrators delete each other at
        the same time, the second deletion finds only one left. Raises the errors of lock().
        """
        await begin_write(context.session)
        has_password = User.password_hash != UNUSABLE_PASSWORD
        concerned = select(User).where(
            or_(User.id == user_id, and_(User.is_admin, User.is_enabled, has_password))
        )
        found = await context.session.scalars(locked_in_order(concerned, User.id, key_share=True))
        users = found.all()
        for user in users:
            if user.id == user_id:
                require_token_version(user.token_version, token_version)
                return user, len(users) == 1 and user.is_admin and user.is_enabled
        await context.session.rollback()
        raise UserNotFoundError

    async def _revoke_tokens(self, context: RequestContext, user: User) -> None:
        """Revoke the tokens and sessions of the current token version."""
        await self._revocations.publish(context, f"sub:{user.id}:{user.token_version}")
        user.token_version = new_token_version()

    async def _find_id(self, context: RequestContext, username: str) -> int | None:
        found = await context.session.scalar(
            select(User.id).where(User.username_folded == normalize_username(username))
        )
        await context.session.commit()
        return found


def _refuse_service_prefix(username: str) -> None:
    """Raises InvalidRequestError."""
    if has_service_prefix(username):
        rule = f"Must not begin with {SERVICE_PREFIX}, as names of service accounts do"
        raise InvalidRequestError.for_field("username", rule)


def require_token_version(current: int, token_version: int | None) -> None:
    """Raises InvalidTokenError if the version that was checked is no longer the current one."""
    if token_version is not None and token_version != current:
        raise InvalidTokenError


async def _require_person(context: RequestContext, user: User) -> None:
    """Ends the transaction and raises ServiceAccountError if the user is a service account."""
    if user.kind == SERVICE:
        await context.session.rollback()
        raise ServiceAccountError
