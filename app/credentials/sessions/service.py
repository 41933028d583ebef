"""The verbs of sessions.

A refresh token is `hpr_<handle>_<secret>`. At each use the secret is replaced by one derived from
it under a key that only the database has. Whoever repeats a use within the grace, because the
answer was lost or two tasks renewed at once, gets the same successor again. Any other secret that
comes with a true handle is a spent one, so it was copied: the session ends (RFC 9700, 4.14.2).
One row holds a session however often it is renewed.
"""

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.context import Caller
from app.credentials.sessions.errors import SessionNotFoundError
from app.credentials.sessions.models import Session
from app.database.engine import begin_write
from app.events import Events
from app.security.rate_limits.rates import RENEWAL
from app.security.rate_limits.service import allow
from app.settings import Settings
from app.tokens.revocations.service import Revocations
from app.users.models import User
from app.users.service import Account

GRACE = timedelta(seconds=10)
MAX_PER_USER = 100

_REFRESH_TOKEN = re.compile(r"hpr_([0-9a-f]{32})_([0-9a-f]{64})")

_log = logging.getLogger("hourpass.sessions")


@dataclass(frozen=True, slots=True)
class Renewal:
    """A session, the user it belongs to, and the refresh token to use next time."""

    user: User | Account
    session: Session
    refresh_token: str


class Sessions:
    def __init__(
        self,
        session: AsyncSession,
        revocations: Revocations,
        events: Events,
        settings: Settings,
    ) -> None:
        self._session = session
        self._revocations = revocations
        self._events = events
        self._idle = timedelta(days=settings.session_idle_days)
        self._longest = timedelta(days=settings.session_max_days)

    async def open(
        self, user: Account, scope: str, caller: Caller, now: datetime
    ) -> Renewal | None:
        """Begin a session. A user's oldest ones make room beyond MAX_PER_USER.

        None if the user was removed or cut off while the password was being checked.
        """
        secret = secrets.token_hex(32)
        opened = Session(
            id=secrets.token_hex(8),
            user_id=user.id,
            epoch=user.token_epoch,
            scope=scope,
            handle=secrets.token_hex(16),
            secret_hash=_hash(secret),
            rotation_key=secrets.token_bytes(32),
            rotated_at=now,
            created_at=now,
            expires_at=now + min(self._idle, self._longest),
            address=caller.address,
            user_agent=caller.user_agent,
        )
        await begin_write(self._session)
        # Locked before sessions and the feed, as everywhere, so that no two wait for each other.
        unchanged = (
            select(User.id)
            .where(User.id == user.id, User.token_epoch == user.token_epoch)
            .with_for_update(key_share=True)
        )
        if await self._session.scalar(unchanged) is None:
            await self._session.commit()
            return None
        oldest_first = (
            select(Session.id).where(Session.user_id == user.id).order_by(Session.created_at)
        )
        others = (await self._session.scalars(oldest_first)).all()
        for surplus in others[: max(0, len(others) + 1 - MAX_PER_USER)]:
            await self._end(now, Session.id == surplus, reason="too many sessions")
        self._session.add(opened)
        await self._events.announce("session.open", user.id, now, session=opened.id)
        await self._session.commit()
        return Renewal(user, opened, _refresh_token(opened, secret))

    async def renew(self, refresh_token: str, now: datetime) -> Renewal | None:
        """Trade a refresh token for its successor. None if it is of no use, or no longer.

        Raises TooManyAttemptsError, which leaves the refresh token as it was.
        """
        match = _REFRESH_TOKEN.fullmatch(refresh_token)
        if match is None:
            return None
        handle, secret = match.groups()
        await begin_write(self._session)
        found = (
            await self._session.execute(
                select(Session, User)
                .join(User, User.id == Session.user_id)
                .where(
                    Session.handle == handle,
                    Session.expires_at > now,
                    Session.epoch == User.token_epoch,
                    User.is_enabled,
                )
                .with_for_update(of=Session)
            )
        ).one_or_none()
        if found is None:
            await self._session.commit()
            return None
        session, user = found
        successor = hmac.digest(session.rotation_key, secret.encode(), "sha256").hex()
        presented = _hash(secret)
        is_newest = hmac.compare_digest(presented, session.secret_hash)
        is_repeated = presented == session.previous_secret_hash
        if not is_newest and not (is_repeated and now - session.rotated_at <= GRACE):
            await self._end(now, Session.id == session.id, reason="a spent refresh token")
            await self._session.commit()
            _log.warning("A spent refresh token was used again", extra={"user_id": user.id})
            return None
        # Counted for the session, not the user: a thief with a copied refresh token must not
        # block renewals of the owner's other sessions.
        await allow(self._session, "renewal", session.id, RENEWAL)
        if is_newest:
            session.previous_secret_hash = presented
            session.secret_hash = _hash(successor)
            session.rotated_at = now
            session.expires_at = min(now + self._idle, session.created_at + self._longest)
        await self._session.commit()
        return Renewal(user, session, _refresh_token(session, successor))

    async def list_of(self, user_id: int, now: datetime) -> Sequence[Session]:
        """The user's live sessions, newest first."""
        sessions = await self._session.scalars(
            select(Session)
            .join(User, User.id == Session.user_id)
            .where(
                Session.user_id == user_id,
                Session.expires_at > now,
                Session.epoch == User.token_epoch,
            )
            .order_by(Session.created_at.desc())
        )
        return sessions.all()

    async def end(self, user_id: int, session_id: str, now: datetime) -> None:
        """End one of the user's sessions and its tokens. Raises SessionNotFoundError."""
        await begin_write(self._session)
        if not await self._end(now, Session.user_id == user_id, Session.id == session_id):
            raise SessionNotFoundError
        await self._session.commit()

    async def end_by(self, refresh_token: str, now: datetime) -> None:
        """End the session that the refresh token belongs to, if there is one."""
        if match := _REFRESH_TOKEN.fullmatch(refresh_token):
            handle, secret = match.groups()
            hash_ = _hash(secret)
            is_its_secret = or_(Session.secret_hash == hash_, Session.previous_secret_hash == hash_)
            await begin_write(self._session)
            await self._end(now, Session.handle == handle, is_its_secret)
            await self._session.commit()

    async def _end(
        self, now: datetime, *conditions: ColumnElement[bool], reason: str = "asked to"
    ) -> bool:
        ended = (
            await self._session.execute(
                delete(Session).where(*conditions).returning(Session.id, Session.user_id)
            )
        ).one_or_none()
        if ended is None:
            return False
        id_, user_id = ended
        await self._revocations.publish(f"sid:{id_}")
        await self._events.announce("session.end", user_id, now, session=id_, reason=reason)
        return True


def _refresh_token(session: Session, secret: str) -> str:
    return f"hpr_{session.handle}_{secret}"


def _hash(secret: str) -> bytes:
    """256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).digest()
