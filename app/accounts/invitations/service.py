"""Creates, lists and revokes invitations, which are one-time codes."""

from collections.abc import Collection, Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, delete, select

from app.accounts.invitations.errors import InvitationNotFoundError
from app.context import RequestContext
from app.database.engine import begin_write
from app.events import Events
from app.mail.service import Mail, enqueue, enqueue_again
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.models import Code
from app.security.one_time_codes.service import Purpose
from app.security.rate_limits.limits import NEW_INVITATION
from app.security.rate_limits.service import enforce_limit
from app.settings import Settings
from app.tokens.token_size import require_room


class Invitations:
    def __init__(self, events: Events, mail: Mail, settings: Settings) -> None:
        self._settings = settings
        self._events = events
        self._mail = mail

    async def create(
        self,
        context: RequestContext,
        email: str | None,
        scopes: Collection[str],
        lifetime: timedelta,
        language: str | None = None,
    ) -> tuple[Code, str]:
        """Create an invitation. With an e-mail address, the code is mailed there, in this language,
        and using it verifies the address.

        Raises MailUnavailableError, TooManyAttemptsError, and InvalidRequestError for scopes that
        are too long for a token.
        """
        require_room(self._settings, scopes)
        if email:
            self._mail.require_server()
        await begin_write(context.session)
        await enforce_limit(context.session, "invitation by", str(context.user_id), NEW_INVITATION)
        invitation, text = await codes.issue(
            context, Purpose.INVITE, email=email, scopes=" ".join(scopes), lifetime=lifetime
        )
        if email:
            await enqueue(context, email, invitation, language)
        number = str(invitation.id)
        await self._events.publish(context, "invitation.create", None, invitation=number)
        await context.session.commit()
        return invitation, text

    async def list(self, context: RequestContext, after_id: int, limit: int) -> Sequence[Code]:
        """Open invitations, in the order of their ids."""
        found = select(Code).where(_is_open(context), Code.id > after_id)
        return (await context.session.scalars(found.order_by(Code.id).limit(limit))).all()

    async def resend(
        self, context: RequestContext, invitation_id: int, language: str | None
    ) -> Code:
        """Mail the invitation again. Earlier mails of it stay valid.

        Raises InvitationNotFoundError, NotMailedError, MailUnavailableError and
        TooManyAttemptsError.
        """
        self._mail.require_server()
        await begin_write(context.session)
        await enforce_limit(context.session, "invitation by", str(context.user_id), NEW_INVITATION)
        found = select(Code).where(_is_open(context), Code.id == invitation_id).with_for_update()
        invitation = await context.session.scalar(found)
        if invitation is None:
            raise InvitationNotFoundError
        await enqueue_again(context, invitation, language)
        number = str(invitation_id)
        await self._events.publish(context, "invitation.resend", None, invitation=number)
        await context.session.commit()
        return invitation

    async def revoke(self, context: RequestContext, invitation_id: int) -> None:
        """Raises InvitationNotFoundError."""
        await begin_write(context.session)
        revoked = delete(Code).where(_is_open(context), Code.id == invitation_id)
        if await context.session.scalar(revoked.returning(Code.id)) is None:
            raise InvitationNotFoundError
        number = str(invitation_id)
        await self._events.publish(context, "invitation.revoke", None, invitation=number)
        await context.session.commit()


def _is_open(context: RequestContext) -> ColumnElement[bool]:
    return and_(Code.purpose == Purpose.INVITE, Code.expires_at > context.now)
