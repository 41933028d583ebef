from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.invitations.errors import InvitationNotFoundError
from app.database.engine import begin_write
from app.events import Events
from app.mail.service import Mail, post
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.models import Code
from app.security.one_time_codes.service import Purpose
from app.security.rate_limits.rates import NEW_INVITATION
from app.security.rate_limits.service import allow


@dataclass(frozen=True, slots=True)
class Invitations:
    session: AsyncSession
    events: Events
    mail: Mail

    async def create(
        self, email: str | None, scopes: Collection[str], lifetime: timedelta, now: datetime
    ) -> tuple[Code, str]:
        """With an address the code is mailed there, and proves the mailbox when it is used.

        Raises MailUnavailableError and TooManyAttemptsError.
        """
        if email:
            self.mail.require_server()
        await begin_write(self.session)
        admin = str(self.mail.caller.user_id)
        await allow(self.session, "invitation by", admin, NEW_INVITATION)
        invitation, text = await codes.issue(
            self.session,
            Purpose.INVITE,
            now,
            email=email,
            scopes=" ".join(scopes),
            lifetime=lifetime,
        )
        if email:
            await post(self.session, email, self.mail.caller, code=invitation)
        number = str(invitation.id)
        await self.events.announce("invitation.create", None, now, invitation=number)
        await self.session.commit()
        return invitation, text

    async def list_after(self, invitation_id: int, limit: int, now: datetime) -> Sequence[Code]:
        """Those that can still be used, in the order of their ids."""
        open_ones = select(Code).where(
            Code.purpose == Purpose.INVITE, Code.expires_at > now, Code.id > invitation_id
        )
        return (await self.session.scalars(open_ones.order_by(Code.id).limit(limit))).all()

    async def take_back(self, invitation_id: int, now: datetime) -> None:
        """Raises InvitationNotFoundError."""
        await begin_write(self.session)
        taken = delete(Code).where(
            Code.id == invitation_id, Code.purpose == Purpose.INVITE, Code.expires_at > now
        )
        if await self.session.scalar(taken.returning(Code.id)) is None:
            raise InvitationNotFoundError
        number = str(invitation_id)
        await self.events.announce("invitation.take_back", None, now, invitation=number)
        await self.session.commit()
