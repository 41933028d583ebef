"""Operations on sessions.

A refresh token is `hpr_<handle>_<secret>`. Each use replaces the secret by one that is derived from
it with a key that only the database has. If a client uses a token again within GRACE, it gets the
same successor again: the response may have been lost, or two tasks may have refreshed at once. A
client that does not look like the one that logged in has only GRACE_ELSEWHERE. Any other secret
with a known handle has been used before. Then the token was probably stolen, so the session is
revoked (RFC 9700, 4.14.2; decision 16). A session is one row, however often it is refreshed.
"""

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import BigInteger, ColumnElement, Row, cast, delete, select, update

from app.context import RequestContext
from app.credentials.sessions.errors import SessionNotFoundError
from app.credentials.sessions.models import Session
from app.database.engine import begin_write
from app.database.locks import locked_in_order
from app.events import Events
from app.ip_addresses import network_of
from app.security.rate_limits.limits import SESSION_REFRESH
from app.security.rate_limits.service import enforce_limit
from app.settings import Settings
from app.tokens.errors import InvalidTargetError
from app.tokens.revocations.service import Revocations
from app.users.login_account import LoginAccount
from app.users.models import MAX_TOKEN_VERSION, User

GRACE = timedelta(seconds=60)  # with the network or the user agent of the login
GRACE_ELSEWHERE = timedelta(seconds=10)
MAX_PER_USER = 100

_REFRESH_TOKEN = re.compile(r"hpr_([0-9a-f]{32})_([0-9a-f]{64})")

_log = logging.getLogger("hourpass.sessions")


@dataclass(frozen=True, slots=True)
class RefreshedSession:
    """A session, the user it belongs to, and the refresh token to use next time."""

    user: User | LoginAccount
    session: Session
    refresh_token: str


class Sessions:
    def __init__(self, revocations: Revocations, events: Events, settings: Settings) -> None:
        self._revocations = revocations
        self._events = events
        self._audience = settings.audience
        self._idle_timeout = timedelta(days=settings.session_idle_days)
        self._max_age = timedelta(days=settings.session_max_days)

    async def create(
        self,
        context: RequestContext,
        user: LoginAccount,
        scope: str,
        *,
        is_limited: bool = False,
        audience: str | None = None,
    ) -> RefreshedSession | None:
        """Create a session. Deletes the user's oldest sessions if there are more than MAX_PER_USER.

        Returns None if the user was deleted or disabled while the password was being checked.
        """
        secret = secrets.token_hex(32)
        session = Session(
            id=secrets.token_hex(8),
            user_id=user.id,
            token_version=user.token_version,
            scope=scope,
            is_limited=is_limited,
            audience=audience,
            handle=secrets.token_hex(16),
            secret_hash=_hash(secret),
            rotation_key=secrets.token_bytes(32),
            rotated_at=context.now,
            created_at=context.now,
            expires_at=context.now + min(self._idle_timeout, self._max_age),
            ip_address=context.ip_address,
            user_agent=context.user_agent,
        )
        await begin_write(context.session)
        # Users are locked before sessions and the feed, so that there is no deadlock.
        unchanged = (
            select(User.id)
            .where(User.id == user.id, User.token_version == user.token_version)
            .with_for_update(key_share=True)
        )
        if await context.session.scalar(unchanged) is None:
            await context.session.commit()
            return None
        oldest_first = (
            select(Session.id).where(Session.user_id == user.id).order_by(Session.created_at)
        )
        others = (await context.session.scalars(oldest_first)).all()
        surplus = others[: max(0, len(others) + 1 - MAX_PER_USER)]
        if surplus:
            await self._delete(context, Session.id.in_(surplus), reason="too many sessions")
        context.session.add(session)
        await self._events.publish(context, "session.open", user.id, session=session.id)
        await context.session.commit()
        return RefreshedSession(user, session, _refresh_token(session, secret))

    async def refresh(
        self, context: RequestContext, refresh_token: str, audience: str | None = None
    ) -> RefreshedSession | None:
        """Replace a refresh token by its successor. Returns None if it is not valid.

        Raises InvalidTargetError if an audience is given that is not the session's, and
        TooManyAttemptsError. The refresh token then stays valid.
        """
        match = _REFRESH_TOKEN.fullmatch(refresh_token)
        if match is None:
            return None
        handle, secret = match.groups()
        await begin_write(context.session)
        # If revoke_access_tokens() was committed while this waited for the session, PostgreSQL has
        # compared the new version of the session with the old one of the user.
        found = await _lock_valid(context, handle) or await _lock_valid(context, handle)
        if found is None:
            await context.session.commit()
            return None
        session, user = found
        successor = hmac.digest(session.rotation_key, secret.encode(), "sha256").hex()
        presented = _hash(secret)
        is_newest = hmac.compare_digest(presented, session.secret_hash)
        is_repeated = presented == session.previous_secret_hash
        grace = GRACE if _is_same_client(context, session) else GRACE_ELSEWHERE
        if not is_newest and not (is_repeated and context.now - session.rotated_at <= grace):
            await self._delete(context, Session.id == session.id, reason="refresh token reused")
            await context.session.commit()
            _log.warning("Refresh token reused, session revoked", extra={"user_id": user.id})
            return None
        if audience not in (None, session.audience or self._audience):
            raise InvalidTargetError
        # Counted per session, not per user: a thief with a copied refresh token must not block the
        # owner's other sessions.
        await enforce_limit(context.session, "renewal", session.id, SESSION_REFRESH)
        if is_newest:
            session.previous_secret_hash = presented
            session.secret_hash = _hash(successor)
            session.rotated_at = context.now
            session.expires_at = min(
                context.now + self._idle_timeout, session.created_at + self._max_age
            )
        await context.session.commit()
        return RefreshedSession(user, session, _refresh_token(session, successor))

    async def list_for_user(self, context: RequestContext, user_id: int) -> Sequence[Session]:
        """The user's active sessions, newest first."""
        sessions = await context.session.scalars(
            select(Session)
            .join(User, User.id == Session.user_id)
            .where(
                Session.user_id == user_id,
                Session.expires_at > context.now,
                Session.token_version == User.token_version,
            )
            .order_by(Session.created_at.desc())
        )
        return sessions.all()

    async def revoke(self, context: RequestContext, user_id: int, session_id: str) -> None:
        """Revoke one of the user's sessions and its tokens. Raises SessionNotFoundError."""
        await begin_write(context.session)
        if not await self._delete(context, Session.user_id == user_id, Session.id == session_id):
            raise SessionNotFoundError
        await context.session.commit()

    async def revoke_all(self, context: RequestContext, user_id: int) -> int:
        """Revoke all sessions of the user and their tokens, but no other tokens. Returns the number
        of sessions."""
        await begin_write(context.session)
        # As in create(): whatever locks several sessions locks the user first.
        await context.session.scalar(
            select(User.id).where(User.id == user_id).with_for_update(key_share=True)
        )
        number = await self._delete(context, Session.user_id == user_id)
        await context.session.commit()
        return number

    async def get_owner_id(self, context: RequestContext, session_id: str) -> int:
        """Raises SessionNotFoundError."""
        owner_id = await context.session.scalar(
            select(Session.user_id).where(Session.id == session_id)
        )
        if owner_id is None:
            raise SessionNotFoundError
        return owner_id

    async def revoke_by_token(self, context: RequestContext, refresh_token: str) -> bool:
        """Revoke the session that the refresh token belongs to. Returns False if there is none.

        A token that was used before is enough, as in refresh(): otherwise a client that has lost
        the newest one could not log out.
        """
        match = _REFRESH_TOKEN.fullmatch(refresh_token)
        if match is None:
            return False
        await begin_write(context.session)
        number = await self._delete(context, Session.handle == match[1])
        await context.session.commit()
        return number > 0

    async def revoke_access_tokens(self, context: RequestContext, user_ids: Sequence[int]) -> None:
        """Revoke all access tokens of the users, and keep their sessions. Part of the caller's
        transaction.

        The token versions of users and of sessions change by the same random number: a session that
        was valid stays valid, and one that was revoked stays revoked.
        """
        users = select(User.id, User.token_version).where(User.id.in_(user_ids))
        locked = await context.session.execute(locked_in_order(users, User.id, key_share=True))
        revoked = [f"sub:{user_id}:{version}" for user_id, version in locked]
        shift = secrets.randbelow(MAX_TOKEN_VERSION) + 1
        owned = select(Session.id).where(Session.user_id.in_(user_ids))
        sessions = (await context.session.scalars(locked_in_order(owned, Session.id))).all()
        for table, ids in ((User, user_ids), (Session, sessions)):
            version = cast(table.token_version, BigInteger)
            await context.session.execute(
                update(table)
                .where(table.id.in_(ids))
                .values(token_version=(version + shift) % (MAX_TOKEN_VERSION + 1))
                .execution_options(synchronize_session=False)
            )
        await self._revocations.publish_all(context, revoked)

    async def _delete(
        self, context: RequestContext, *conditions: ColumnElement[bool], reason: str = "requested"
    ) -> int:
        """Returns the number of deleted sessions. Deletes all rows before it publishes: the feed is
        the last lock of a transaction."""
        statement = delete(Session).where(*conditions).returning(Session.id, Session.user_id)
        deleted = (await context.session.execute(statement)).all()
        for id_, user_id in deleted:
            await self._revocations.publish(context, f"sid:{id_}")
            await self._events.publish(context, "session.end", user_id, session=id_, reason=reason)
        return len(deleted)


async def _lock_valid(context: RequestContext, handle: str) -> Row[Session, User] | None:
    """The session with this handle, locked, and its user, if both are valid."""
    query = (
        select(Session, User)
        .join(User, User.id == Session.user_id)
        .where(
            Session.handle == handle,
            Session.expires_at > context.now,
            Session.token_version == User.token_version,
            User.is_enabled,
        )
        .with_for_update(of=Session)
    )
    return (await context.session.execute(query)).one_or_none()


def _is_same_client(context: RequestContext, session: Session) -> bool:
    """Whether the request comes from the network or the user agent of the login."""
    network = network_of(context.ip_address)
    return (network != "" and network == network_of(session.ip_address)) or (
        context.user_agent != "" and context.user_agent == session.user_agent
    )


def _refresh_token(session: Session, secret: str) -> str:
    return f"hpr_{session.handle}_{secret}"


def _hash(secret: str) -> bytes:
    """256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).digest()
