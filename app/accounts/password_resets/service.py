"""Resets passwords with a one-time code, which is mailed or handed out by an administrator.

The next login still requires the second factor.
"""

from sqlalchemy import Select, select

from app.accounts.password_resets.errors import PasswordResetNotFoundError
from app.context import RequestContext
from app.credentials.api_keys.service import ApiKeys
from app.database.engine import begin_write
from app.errors import InvalidRequestError
from app.events import Events
from app.mail.service import Mail, enqueue, enqueue_again, enqueue_request
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.models import Code
from app.security.one_time_codes.service import Purpose
from app.security.rate_limits.limits import RESET
from app.security.rate_limits.service import LoginLimiter, clear, network_to_limit
from app.users.login_account import normalize_username
from app.users.service import Users


class PasswordResets:
    def __init__(
        self, users: Users, api_keys: ApiKeys, limiter: LoginLimiter, events: Events, mail: Mail
    ) -> None:
        self._users = users
        self._api_keys = api_keys
        self._limiter = limiter
        self._events = events
        self._mail = mail

    async def request(self, context: RequestContext, email: str) -> None:
        """Queue a mail. The mail worker looks up the accounts with the address later, so the
        response takes the same time for every address.

        Raises MailUnavailableError, TooManyAttemptsError and UnavailableError.
        """
        self._mail.require_server()
        network = network_to_limit(context.ip_address)
        await self._limiter.enforce_limit(context, "reset", network, RESET)
        await begin_write(context.session)
        await enqueue_request(context, email)
        await context.session.commit()

    async def confirm(self, context: RequestContext, code: str, password: str) -> int:
        """Set the password and return the user's id. Revokes all tokens and sessions, and clears
        the user's own failed logins, but not those of others.

        Raises InvalidCodeError, InvalidRequestError and HashingOverloadedError. After the latter
        two, the code can still be used.
        """
        found = await codes.find(context, code, Purpose.RESET, Purpose.ADMIN_RESET)
        assert found.user_id
        password_hash = await self._users.hash_password(
            context, found.user_id, password, field="new_password"
        )
        await begin_write(context.session)
        user = await self._users.bump_token_version(context, found.user_id)
        used = await codes.use(context, code, Purpose.RESET, Purpose.ADMIN_RESET)
        user.password_hash = password_hash
        if used.email is not None and used.email == user.email:
            user.email_verified_at = context.now
        context.user_id = user.id
        await clear(context.session, normalize_username(user.username), context.ip_address)
        await self._events.publish(context, "user.reset_password", user.id)
        await context.session.commit()
        return user.id

    async def force(
        self,
        context: RequestContext,
        user_id: int,
        *,
        by_mail: bool,
        language: str | None = None,
    ) -> tuple[Code, str]:
        """Invalidate the password, and revoke tokens, sessions and API keys. Only the code can set
        a new password. `language` is that of the mail.

        Raises UserNotFoundError, ServiceAccountError, LastAdminError, MailUnavailableError, and
        InvalidRequestError for a user without an e-mail address.
        """
        if by_mail:
            self._mail.require_server()
        user = await self._users.invalidate_password(context, user_id)
        if by_mail and user.email is None:
            raise InvalidRequestError.for_field("by_mail", "The user has no e-mail address")
        await self._api_keys.revoke_all(context, user_id, reason="forced password reset")
        await self._events.publish(context, "user.force_reset", user_id)
        email = user.email if by_mail else None
        code, text = await codes.issue(context, Purpose.ADMIN_RESET, user_id=user_id, email=email)
        if email:
            await enqueue(context, email, code, language)
        await context.session.commit()
        return code, text

    async def get_forced(self, context: RequestContext, user_id: int) -> Code:
        """The code of the forced reset that is open. Raises PasswordResetNotFoundError."""
        if code := await context.session.scalar(_forced(context, user_id)):
            return code
        raise PasswordResetNotFoundError

    async def resend(self, context: RequestContext, user_id: int, language: str | None) -> Code:
        """Mail the code of a forced reset again. Earlier mails of it stay valid.

        Raises PasswordResetNotFoundError, NotMailedError and MailUnavailableError.
        """
        self._mail.require_server()
        await begin_write(context.session)
        code = await context.session.scalar(_forced(context, user_id).with_for_update())
        if code is None:
            raise PasswordResetNotFoundError
        await enqueue_again(context, code, language)
        await self._events.publish(context, "user.resend_reset", user_id)
        await context.session.commit()
        return code


def _forced(context: RequestContext, user_id: int) -> Select[Code]:
    """The newest one. Forcing a reset makes the code of the one before invalid."""
    is_open = (Code.purpose == Purpose.ADMIN_RESET, Code.expires_at > context.now)
    return select(Code).where(Code.user_id == user_id, *is_open).order_by(Code.id.desc()).limit(1)
