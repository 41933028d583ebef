"""Sends messages by SMTP. Import it only to send, since importing aiosmtplib is slow."""

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from email.headerregistry import AddressHeader
from email.message import EmailMessage
from typing import cast
from urllib.parse import SplitResult, unquote, urlsplit

import aiosmtplib

from app.configuration.types import SMTP_PORTS
from app.mail.messages import domain_of
from app.settings import Settings

REPLY_SECONDS = 60.0  # for each reply before the text, and to connect
PREPARE_SECONDS = 120.0  # for everything before the text
# For the reply to the end of the text, and to DATA. The server may have accepted the message while
# it still works on the reply, so a client that waits less sends it twice: RFC 5321, 4.5.3.2.6.
TEXT_SECONDS = 10 * 60 + REPLY_SECONDS
QUIT_SECONDS = 5.0
# No try takes longer.
MAX_SECONDS = PREPARE_SECONDS + TEXT_SECONDS + QUIT_SECONDS

_ENHANCED_CODE = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?![0-9.])")  # RFC 2034, 4
# Of the replies without an enhanced code, those about the mailbox (RFC 5321, 4.2.3).
_MAILBOX_REPLIES = (550, 551, 553)
_SENDER_DETAILS = ("7", "8")  # X.1.7 and X.1.8 are about the sender's address (RFC 3463, 3.2)


class SendError(Exception):
    """The message was not sent. `step` is the SMTP command that failed, or "connect".

    It has no text of the server, which may quote the address or the message: only the reply code
    and the enhanced code, if the server replied.
    """

    def __init__(self, step: str, error: Exception) -> None:
        super().__init__(step)
        self.step = "ehlo" if isinstance(error, aiosmtplib.SMTPHeloError) else step
        self.error = error
        reply_code = getattr(error, "code", 0)
        self.reply_code = reply_code if 200 <= reply_code <= 599 else None
        self.enhanced_code = _enhanced_code(self.reply_code, getattr(error, "message", ""))

    def fields(self) -> dict[str, object]:
        """For the log and the audit log."""
        return {
            "step": self.step,
            "reply_code": self.reply_code,
            "enhanced_code": self.enhanced_code,
            "error": type(self.error).__name__,
        }

    @property
    def is_final(self) -> bool:
        """Whether the server refuses this recipient for good. All else may change: a full mailbox,
        a policy, a configuration."""
        if isinstance(self.error, aiosmtplib.SMTPNotSupported):  # for an address beyond ASCII
            return True
        if self.step not in {"rcpt", "data"} or (self.reply_code or 0) < 500:
            return False
        if self.enhanced_code is None:
            return self.step == "rcpt" and self.reply_code in _MAILBOX_REPLIES
        _, subject, detail = self.enhanced_code.split(".")
        return subject == "1" and detail not in _SENDER_DETAILS

    @property
    def concerns_all_mail(self) -> bool:
        """Whether the error is about the server rather than about this message."""
        if self.step not in {"rcpt", "data"} or self.reply_code in {None, 421}:
            return not self.is_final
        return (self.enhanced_code or "").split(".")[1:2] == ["3"]  # X.3.x: the mail system


@dataclass
class _Progress:
    step: str = "connect"


async def send(settings: Settings, message: EmailMessage) -> None:
    """Send by SMTP_URL, which must be set. Raises SendError."""
    server = _server(settings)
    progress = _Progress()
    try:
        async with asyncio.timeout(PREPARE_SECONDS):
            await _log_in(settings, server, progress)
            sender, recipient = _address(message, "From"), _address(message, "To")
            progress.step = "mail"
            options, encoding = await _options_for(server, recipient)
            await server.mail(sender, options=options, encoding=encoding)
            progress.step = "rcpt"
            await server.rcpt(recipient, encoding=encoding)
        progress.step = "data"
        async with asyncio.timeout(TEXT_SECONDS):
            await server.data(bytes(message), timeout=TEXT_SECONDS)
        with suppress(aiosmtplib.SMTPException, OSError):
            await server.quit(timeout=QUIT_SECONDS)
    except (aiosmtplib.SMTPException, OSError) as error:
        raise SendError(progress.step, error) from error
    finally:
        server.close()


async def check_server(settings: Settings, seconds: float) -> None:
    """Connect to the server of SMTP_URL, which must be set, and log in, without a message. Raises
    SendError, also if it takes longer than `seconds`."""
    server = _server(settings)
    progress = _Progress()
    try:
        async with asyncio.timeout(seconds):
            await _log_in(settings, server, progress)
            progress.step = "ehlo"
            if server.is_ehlo_or_helo_needed:
                await server.ehlo()
            with suppress(aiosmtplib.SMTPException):
                await server.quit()
    except (aiosmtplib.SMTPException, OSError) as error:
        raise SendError(progress.step, error) from error
    finally:
        server.close()


def _server(settings: Settings) -> aiosmtplib.SMTP:
    url = _url(settings)
    return aiosmtplib.SMTP(
        hostname=url.hostname,
        port=url.port or SMTP_PORTS[url.scheme],
        use_tls=url.scheme == "smtps",
        start_tls=False,  # a step of its own
        local_hostname=domain_of(settings),
        timeout=REPLY_SECONDS,
    )


async def _log_in(settings: Settings, server: aiosmtplib.SMTP, progress: _Progress) -> None:
    url = _url(settings)
    await server.connect()
    if url.scheme == "smtp":
        progress.step = "starttls"
        await server.starttls()
    if url.username:
        progress.step = "auth"
        await server.login(unquote(url.username), unquote(url.password or ""))


def _url(settings: Settings) -> SplitResult:
    assert settings.smtp_url
    return urlsplit(settings.smtp_url.get_secret_value())


async def _options_for(server: aiosmtplib.SMTP, recipient: str) -> tuple[list[str], str]:
    """The parameters of MAIL, and the encoding of the addresses (RFC 6531, 3.4)."""
    if recipient.isascii():
        return [], "ascii"
    if server.is_ehlo_or_helo_needed:
        await server.ehlo()
    if not server.supports_extension("smtputf8"):
        raise aiosmtplib.SMTPNotSupported("SMTPUTF8")
    return ["SMTPUTF8"], "utf-8"


def _address(message: EmailMessage, header: str) -> str:
    return cast("AddressHeader", message[header]).addresses[0].addr_spec


def _enhanced_code(reply_code: int | None, text: str) -> str | None:
    match = _ENHANCED_CODE.match(text)
    return match[1] if match and match[1][0] == str(reply_code)[0] else None
