"""Operations on API keys. Each is a transaction of its own, unless it says otherwise.

Every change of a key locks its owner first, then the key, then counters, and last the revocation
feed, so that there is no deadlock.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, select

from app.context import RequestContext
from app.credentials.api_keys.errors import (
    ApiKeyNotActiveError,
    ApiKeyNotFoundError,
    ApiKeyRotatedError,
    ApiKeySuspendedError,
    TooManyApiKeysError,
)
from app.credentials.api_keys.fingerprints import announcement, hash_key
from app.credentials.api_keys.limits import MAX_PER_USER
from app.credentials.api_keys.models import ApiKey
from app.credentials.api_keys.schemas import ApiKeyChange, ApiKeyQuery, NewApiKey
from app.credentials.api_keys.scopes import require_narrower, require_owned, scopes_of_key
from app.database.engine import begin_write
from app.database.locks import locked_in_order
from app.errors import InvalidRequestError
from app.events import Events
from app.groups.user_scopes import find_user_scopes
from app.security.rate_limits.limits import API_KEY_CHANGE, NEW_API_KEY
from app.security.rate_limits.service import enforce_limit
from app.settings import Settings
from app.tokens.revocations.service import Revocations
from app.tokens.token_size import require_room
from app.users.models import User, new_token_version
from app.users.service import Users
from hourpass.api_keys import generate_key, id_of

KEPT_FOR = timedelta(days=90)  # after a key was revoked or has expired

_NO_OVERLAP = timedelta(0)
_TICK = timedelta(microseconds=1)  # the resolution of times in both databases


class ApiKeys:
    def __init__(
        self, users: Users, revocations: Revocations, events: Events, settings: Settings
    ) -> None:
        self._users = users
        self._revocations = revocations
        self._events = events
        self._settings = settings
        self._admins_need_second_factor = settings.admin_second_factor == "required"

    async def create(
        self,
        context: RequestContext,
        user_id: int,
        new: NewApiKey,
        token_version: int | None = None,
    ) -> tuple[ApiKey, str]:
        """Create a key. Returns the row, and the key itself, of which only the hash is stored.

        Raises InvalidRequestError for a scope that the owner does not have and for scopes and
        networks that are too long for a token, TooManyApiKeysError, TooManyAttemptsError, and the
        errors of Users.lock().
        """
        await begin_write(context.session)
        user = await self._users.lock(context, user_id, token_version)
        owner_scopes = await self._scopes_of_owner(context, user)
        if new.scopes is not None:
            require_owned(new.scopes, owner_scopes)
        if await self._count(context, user_id) >= MAX_PER_USER:
            raise TooManyApiKeysError
        api_key = ApiKey(
            user_id=user_id,
            name=new.name,
            label=new.label,
            scopes=None if new.scopes is None else " ".join(new.scopes),
            networks=" ".join(new.networks) or None,
        )
        self._require_room(api_key, owner_scopes)
        key = await self._add(context, api_key, timedelta(days=new.expires_in_days))
        await self._publish(context, "api_key.create", api_key)
        await context.session.commit()
        return api_key, key

    async def list(
        self, context: RequestContext, user_id: int, query: ApiKeyQuery
    ) -> Sequence[ApiKey]:
        """The keys of a page, newest first, and one more."""
        found = select(ApiKey).where(ApiKey.user_id == user_id, ApiKey.created_at < query.before)
        if not query.include_ended:
            found = found.where(*_has_not_ended(context))
        newest_first = found.order_by(ApiKey.created_at.desc()).limit(query.limit + 1)
        return (await context.session.scalars(newest_first)).all()

    async def list_of_all_users(
        self, context: RequestContext, after_id: str, limit: int
    ) -> Sequence[tuple[ApiKey, str]]:
        """Keys that have not ended, with the names of their owners, in the order of their ids."""
        found = await context.session.execute(
            select(ApiKey, User.username)
            .join(User, User.id == ApiKey.user_id)
            .where(ApiKey.id > after_id, *_has_not_ended(context))
            .order_by(ApiKey.id)
            .limit(limit)
        )
        return [(api_key, username) for api_key, username in found]

    async def get(self, context: RequestContext, user_id: int, key_id: str) -> ApiKey:
        """Raises ApiKeyNotFoundError, also for the key of another user."""
        own = select(ApiKey).where(ApiKey.id == key_id, ApiKey.user_id == user_id)
        if api_key := await context.session.scalar(own):
            return api_key
        raise ApiKeyNotFoundError

    async def get_owner_id(self, context: RequestContext, key_id: str) -> int:
        """Raises ApiKeyNotFoundError."""
        owner_id = await context.session.scalar(select(ApiKey.user_id).where(ApiKey.id == key_id))
        if owner_id is None:
            raise ApiKeyNotFoundError
        return owner_id

    async def update(
        self,
        context: RequestContext,
        user_id: int,
        key_id: str,
        change: ApiKeyChange,
        token_version: int | None = None,
    ) -> ApiKey:
        """Change a key, which never gets more rights. Its access tokens are revoked if its scopes,
        lifetime or networks change.

        Raises InvalidRequestError for more scopes, a longer lifetime, and for scopes and networks
        that are too long for a token, TooManyAttemptsError, and the errors of _lock().
        """
        user, api_key = await self._lock(context, user_id, key_id, token_version)
        owner_scopes = await self._scopes_of_owner(context, user)
        values = change.changes()
        if change.scopes is not None:
            require_narrower(change.scopes, api_key.scopes, owner_scopes)
            values["scopes"] = " ".join(change.scopes)
        if days := values.pop("expires_in_days", None):
            values["expires_at"] = context.now + timedelta(days=days)
            if values["expires_at"] > api_key.expires_at:
                problem = "The key ends before that. Rotate it, or create a new one"
                raise InvalidRequestError.for_field("expires_in_days", problem)
        if change.networks is not None:
            values["networks"] = " ".join(change.networks) or None
        values.pop("otp", None)
        changed = {name for name, value in values.items() if getattr(api_key, name) != value}
        for name in changed:
            setattr(api_key, name, values[name])
        if changed & {"scopes", "networks"}:
            self._require_room(api_key, owner_scopes)
        if changed:
            await self._limit_changes(context, user_id)
            if changed & {"scopes", "expires_at", "networks"}:
                await self._revoke_tokens(context, api_key)
            await self._publish(
                context, "api_key.update", api_key, changed=" ".join(sorted(changed))
            )
        await context.session.commit()
        return api_key

    async def revoke(self, context: RequestContext, user_id: int, key_id: str) -> ApiKey:
        """Safe to repeat. Raises ApiKeyNotFoundError and UserNotFoundError."""
        _, api_key = await self._lock(context, user_id, key_id, must_be_active=False)
        if api_key.revoked_at is None:
            _end(api_key, context)
            await self._revoke_tokens(context, api_key)
            await self._publish(context, "api_key.revoke", api_key)
        await context.session.commit()
        return api_key

    async def rotate(
        self,
        context: RequestContext,
        user_id: int,
        key_id: str,
        overlap: timedelta,
        token_version: int | None = None,
    ) -> tuple[ApiKey, str]:
        """Create the successor of a key, with its name, label, scopes, networks and lifetime. The
        old key works during the overlap, but never longer than before.

        Raises ApiKeyRotatedError, ApiKeySuspendedError, TooManyAttemptsError, and the errors of
        _lock().
        """
        _, old = await self._lock(context, user_id, key_id, token_version)
        if old.replaced_by:
            raise ApiKeyRotatedError
        if old.suspended_at:
            raise ApiKeySuspendedError
        successor = ApiKey(
            user_id=user_id,
            name=old.name,
            label=old.label,
            scopes=old.scopes,
            networks=old.networks,
        )
        key = await self._add(context, successor, old.expires_at - old.created_at)
        old.replaced_by = successor.id
        old.expires_at = min(old.expires_at, context.now + overlap)
        if overlap == _NO_OVERLAP:
            _end(old, context)
        await self._revoke_tokens(context, old)
        until = f"{old.expires_at:%F %T} UTC"
        await self._publish(context, "api_key.rotate", old, to=successor.id, until=until)
        await context.session.commit()
        return successor, key

    async def suspend(self, context: RequestContext, user_id: int, key_id: str) -> ApiKey:
        """Safe to repeat. Raises the errors of _lock()."""
        _, api_key = await self._lock(context, user_id, key_id)
        if api_key.suspended_at is None:
            api_key.suspended_at = context.now
            await self._revoke_tokens(context, api_key)
            await self._publish(context, "api_key.suspend", api_key)
        await context.session.commit()
        return api_key

    async def resume(self, context: RequestContext, user_id: int, key_id: str) -> ApiKey:
        """Safe to repeat. Raises TooManyAttemptsError and the errors of _lock()."""
        _, api_key = await self._lock(context, user_id, key_id)
        if api_key.suspended_at is not None:
            api_key.suspended_at = None
            await self._limit_changes(context, user_id)
            await self._revocations.publish(context, announcement(api_key.secret_hash))
            await self._publish(context, "api_key.resume", api_key)
        await context.session.commit()
        return api_key

    async def log_out_everywhere(
        self, context: RequestContext, user_id: int, token_version: int
    ) -> None:
        """Revoke every API key, token and session of the user. Raises the errors of
        Users.lock()."""
        await begin_write(context.session)
        await self._users.lock(context, user_id, token_version)
        await self.revoke_all(context, user_id, reason="logged out everywhere")
        await self._users.bump_token_version(context, user_id)
        await self._events.publish(context, "user.revoke_tokens", user_id)
        await context.session.commit()

    async def revoke_all(self, context: RequestContext, user_id: int, *, reason: str) -> None:
        """Revoke every API key of a locked user, whose tokens the caller revokes. Part of the
        caller's transaction."""
        own = select(ApiKey).where(ApiKey.user_id == user_id, *_has_not_ended(context))
        found = await context.session.scalars(locked_in_order(own, ApiKey.id))
        revoked = []
        for api_key in found.all():
            _end(api_key, context)
            revoked.append(f"sid:{api_key.id}.{api_key.version}")
            api_key.version += 1
            await self._publish(context, "api_key.revoke", api_key, reason=reason)
        await context.session.flush()
        # If the database loses this change, workers that have read it suspend the keys (recovery/).
        await self._revocations.publish_all(context, revoked)

    async def _lock(
        self,
        context: RequestContext,
        user_id: int,
        key_id: str,
        token_version: int | None = None,
        *,
        must_be_active: bool = True,
    ) -> tuple[User, ApiKey]:
        """Begin to change a key. Returns its owner and the key, both locked.

        Raises ApiKeyNotFoundError, ApiKeyNotActiveError, and the errors of Users.lock().
        """
        await begin_write(context.session)
        user = await self._users.lock(context, user_id, token_version)
        own = select(ApiKey).where(ApiKey.id == key_id, ApiKey.user_id == user_id)
        api_key = await context.session.scalar(
            own.with_for_update().execution_options(populate_existing=True)
        )
        if api_key is None:
            raise ApiKeyNotFoundError
        has_ended = api_key.revoked_at is not None or api_key.expires_at <= context.now
        if must_be_active and has_ended:
            raise ApiKeyNotActiveError
        return user, api_key

    async def _scopes_of_owner(self, context: RequestContext, user: User) -> frozenset[str]:
        """All scopes that a key of this user can have. A key has no second factor."""
        scopes, _ = await find_user_scopes(context, user)
        return scopes - {"admin"} if self._admins_need_second_factor else scopes

    def _require_room(self, api_key: ApiKey, owner_scopes: frozenset[str]) -> None:
        """A key without scopes has those of its owner. Raises InvalidRequestError."""
        scopes = scopes_of_key(api_key.scopes, owner_scopes)
        require_room(self._settings, scopes, (api_key.networks or "").split())

    async def _count(self, context: RequestContext, user_id: int) -> int:
        """The number of active and suspended keys. Keys that overlap with their successors do not
        count, so that a user with MAX_PER_USER keys can rotate them."""
        is_counted = (*_has_not_ended(context), ApiKey.replaced_by.is_(None))
        own = select(func.count()).where(ApiKey.user_id == user_id, *is_counted)
        return await context.session.scalar(own) or 0

    async def _add(self, context: RequestContext, api_key: ApiKey, lifetime: timedelta) -> str:
        """Complete and store a new key, announce it, and return its text.

        Raises TooManyAttemptsError.
        """
        await enforce_limit(context.session, "new API key", str(api_key.user_id), NEW_API_KEY)
        newest = select(func.max(ApiKey.created_at)).where(ApiKey.user_id == api_key.user_id)
        latest = await context.session.scalar(newest)
        key = generate_key()
        api_key.id = id_of(key)
        api_key.secret_hash = hash_key(key)
        api_key.version = new_token_version()  # random, as those of users
        # Each key of a user has its own time, which is its place in the list.
        api_key.created_at = max(context.now, latest + _TICK) if latest else context.now
        api_key.expires_at = api_key.created_at + lifetime
        context.session.add(api_key)
        await context.session.flush()
        await self._revocations.publish(context, announcement(api_key.secret_hash))
        return key

    async def _limit_changes(self, context: RequestContext, user_id: int) -> None:
        """Raises TooManyAttemptsError."""
        await context.session.flush()
        await enforce_limit(context.session, "API key", str(user_id), API_KEY_CHANGE)

    async def _revoke_tokens(self, context: RequestContext, api_key: ApiKey) -> None:
        """Revoke the access tokens of a locked key. A new version begins: the revocation must not
        apply to the tokens that follow."""
        await context.session.flush()
        revoked = f"sid:{api_key.id}.{api_key.version}"
        api_key.version += 1
        await context.session.flush()
        await self._revocations.publish(context, revoked)

    async def _publish(
        self, context: RequestContext, action: str, api_key: ApiKey, **details: str
    ) -> None:
        """The key's id and name are not secret."""
        described: dict[str, Any] = {"key": api_key.id, "name": api_key.name, **details}
        await self._events.publish(context, action, api_key.user_id, **described)


def _has_not_ended(context: RequestContext) -> tuple[ColumnElement[bool], ...]:
    """Conditions for a query. Both are needed: another host, whose clock is ahead, may have revoked
    a key."""
    return ApiKey.expires_at > context.now, ApiKey.revoked_at.is_(None)


def _end(api_key: ApiKey, context: RequestContext) -> None:
    """Revoke a key. `expires_at` changes too, so that one index finds all keys that have ended."""
    api_key.revoked_at = context.now
    api_key.expires_at = min(api_key.expires_at, context.now)
