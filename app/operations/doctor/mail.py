"""Whether the mail server accepts our login, and whether mail waits for it. Sends no message."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from app.errors import StartupError
from app.mail.messages import check_templates
from app.mail.models import OutgoingMail
from app.operations.doctor.finding import Finding
from app.operations.doctor.system import System
from app.settings import Settings

SERVER_SECONDS = 10.0
LONG_WAIT = timedelta(minutes=15)


async def check(system: System) -> AsyncIterator[Finding]:
    settings = system.settings
    if settings.smtp_url is None:
        text = "SMTP_URL is not set: the service sends none, and administrators hand out codes."
        yield Finding("mail", "ok", text)
        return
    try:
        check_templates(settings)
    except StartupError as error:
        yield Finding("mail", "error", str(error))
    yield await _check_server(settings)
    async with system.context() as context:
        number, oldest = (
            await context.session.execute(
                select(func.count(), func.min(OutgoingMail.created_at)).select_from(OutgoingMail)
            )
        ).one()
    waiting = datetime.now(UTC) - oldest if number else timedelta(0)
    text = f"{number} messages wait to be sent."
    if waiting > LONG_WAIT:
        minutes = int(waiting.total_seconds() // 60)
        remedy = f"The oldest has waited for {minutes} minutes: look for errors in the log."
        yield Finding("mail queue", "warning", f"{text} {remedy}")
    else:
        yield Finding("mail queue", "ok", text)


async def _check_server(settings: Settings) -> Finding:
    from app.mail.smtp import SendError, check_server  # slow to import

    try:
        await check_server(settings, SERVER_SECONDS)
    except SendError as error:
        # As in `hourpass mail test`: the operator may read the server's text.
        said = str(error.error) or f"no answer within {SERVER_SECONDS:.0f} s"
        text = f"The mail server cannot be used ({error.step}): {said}. Check SMTP_URL."
        return Finding("mail", "error", text)
    return Finding("mail", "ok", "The mail server accepts the connection and the login.")
