"""Sends messages by SMTP. Import it only to send, since importing aiosmtplib is slow."""

from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

import aiosmtplib

from app.mail.messages import domain_of
from app.settings import SMTP_PORTS, Settings

TIMEOUT_SECONDS = 10


class MailRefusedError(Exception):
    """The server has permanently refused the message. The text may contain the address."""


async def send(settings: Settings, message: EmailMessage) -> None:
    """Send by SMTP_URL, which must be set.

    Raises MailRefusedError, aiosmtplib.SMTPException and OSError.
    """
    assert settings.smtp_url
    url = urlsplit(settings.smtp_url.get_secret_value())
    server = aiosmtplib.SMTP(
        hostname=url.hostname,
        port=url.port or SMTP_PORTS[url.scheme],
        username=unquote(url.username) if url.username else None,
        password=unquote(url.password) if url.password else None,
        use_tls=url.scheme == "smtps",
        start_tls=url.scheme == "smtp",
        local_hostname=domain_of(settings),
        timeout=TIMEOUT_SECONDS,
    )
    async with server:
        try:
            await server.send_message(message)
        except aiosmtplib.SMTPException as error:
            if _is_final(error):
                raise MailRefusedError(str(error)) from error
            raise


def _is_final(error: aiosmtplib.SMTPException) -> bool:
    """Whether the server refuses this message permanently: a code of 500 or more (RFC 5321, 4.2.1).
    Errors of the login or the sender do not depend on the message, so it is retried."""
    match error:
        case aiosmtplib.SMTPDataError():
            return error.code >= 500
        case aiosmtplib.SMTPRecipientsRefused():
            return all(refusal.code >= 500 for refusal in error.recipients)
    return isinstance(error, aiosmtplib.SMTPNotSupported)  # SMTPUTF8, for a non-ASCII address
