"""Registers users if REGISTRATION allows it: everyone, by invitation, or no one."""

from app.context import RequestContext
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.service import Purpose
from app.security.rate_limits.limits import INVITATION, REGISTRATION
from app.security.rate_limits.service import LoginLimiter, network_to_limit
from app.settings import Settings
from app.users.errors import InvitationRequiredError, RegistrationClosedError
from app.users.schemas import NewUser
from app.users.service import Users


class Registration:
    def __init__(self, users: Users, limiter: LoginLimiter, settings: Settings) -> None:
        self._users = users
        self._limiter = limiter
        self._registration = settings.registration

    def require_open(self) -> None:
        """Raises RegistrationClosedError."""
        if self._registration == "closed":
            raise RegistrationClosedError

    async def register(self, context: RequestContext, new_user: NewUser) -> int:
        """Create a user and return its id.

        Raises InvitationRequiredError, InvalidCodeError, TooManyAttemptsError, UserExistsError,
        InvalidRequestError and HashingOverloadedError.
        """
        invitation = new_user.invitation.get_secret_value() if new_user.invitation else None
        if self._registration == "invite" and invitation is None:
            raise InvitationRequiredError
        network = network_to_limit(context.ip_address)
        await self._limiter.enforce_limit(context, "register", network, REGISTRATION)
        if invitation:
            found = await codes.find(context, invitation, Purpose.INVITE)
            await self._limiter.enforce_limit(context, "invitation", str(found.id), INVITATION)
        return await self._users.register(
            context, new_user, invitation=invitation, is_counted=invitation is None
        )
