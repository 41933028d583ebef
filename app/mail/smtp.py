"""The way to the mail server. Only who sends imports this, since its library takes its time."""

from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

import aiosmtplib

from app.mail.messages import domain_of
from app.settings import SMTP_PORTS, Settings

TIMEOUT_SECONDS = 10


async def send(settings: Settings, message: EmailMessage) -> None:
    """By SMTP_URL, which is set. Raises aiosmtplib.SMTPException and OSError."""
    assert settings.smtp_url
    url = urlsplit(settings.smtp_url.get_secret_value())
    await aiosmtplib.send(
        message,
        hostname=url.hostname,
        port=url.port or SMTP_PORTS[url.scheme],
        username=unquote(url.username) if url.username else None,
        password=unquote(url.password) if url.password else None,
        use_tls=url.scheme == "smtps",
        start_tls=url.scheme == "smtp",
        local_hostname=domain_of(settings),
        timeout=TIMEOUT_SECONDS,
    )
