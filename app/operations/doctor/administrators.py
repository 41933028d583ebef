"""Checks that there is an administrator who can log in."""

from collections.abc import AsyncIterator

from sqlalchemy import func, select

from app.credentials.second_factors.models import SecondFactor
from app.operations.doctor.finding import Finding
from app.operations.doctor.system import System
from app.users.models import UNUSABLE_PASSWORD, User


async def check(system: System) -> AsyncIterator[Finding]:
    can_log_in = (User.is_admin, User.is_enabled, User.password_hash != UNUSABLE_PASSWORD)
    has_factor = select(SecondFactor.user_id).where(SecondFactor.confirmed_at.is_not(None))
    async with system.context() as context:
        count = select(func.count()).select_from(User).where(*can_log_in)
        number = await context.session.scalar(count) or 0
        with_factor = await context.session.scalar(count.where(User.id.in_(has_factor))) or 0
    if not number:
        text = "Nobody can administer over HTTP. Run `hourpass users create NAME --admin`."
        yield Finding("administrators", "warning", text)
        return
    text = f"{number} can log in, {with_factor} of them with a second factor."
    if system.settings.admin_second_factor == "required" and not with_factor:
        remedy = "ADMIN_SECOND_FACTOR is required, so one has to set it up."
        yield Finding("administrators", "warning", f"{text} {remedy}")
    else:
        yield Finding("administrators", "ok", text)
