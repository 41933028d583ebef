"""A real mail server, which keeps what it is sent."""

import asyncio
import email
import logging
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTPUTF8
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope
from fastapi import FastAPI

from app.mail.worker import MailWorker

CODE = re.compile(r"^    ((?:[A-Z2-7]{4}-){5}[A-Z2-7]{4})\r?$", re.MULTILINE)

# aiosmtpd logs a dozen lines per message, and pytest formats each of them.
logging.getLogger("mail.log").setLevel(logging.WARNING)


@dataclass
class MailServer:
    """`answers` and `text_answers` are what it says, instead of accepting, to the recipients of
    that address: at RCPT, and at the end of the text. While it `is_free` is not set, it replies to
    no text. If it `drops` connections, it accepts a text and closes the connection instead of
    replying."""

    url: str = ""
    messages: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    text_answers: dict[str, str] = field(default_factory=dict)
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)
    is_free: asyncio.Event = field(default_factory=asyncio.Event)
    drops: bool = False

    def __post_init__(self) -> None:
        self.is_free.set()

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name for it
        self, _server: object, _session: object, envelope: Envelope, address: str, _: list[str]
    ) -> str:
        if answer := self.answers.get(address):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 - as above
        self, server: SMTP, _session: object, envelope: Envelope
    ) -> str:
        for address in envelope.rcpt_tos:
            if answer := self.text_answers.get(address):
                return answer
        assert isinstance(envelope.content, bytes)
        message: Any = email.message_from_bytes(envelope.content, policy=SMTPUTF8)
        self.messages.append(message)
        self.recipients += envelope.rcpt_tos
        await self.is_free.wait()
        if self.drops:
            assert server.transport
            server.transport.close()
        return "250 OK"

    def authenticate(self, _s: object, _t: object, _e: object, _m: str, data: Any) -> AuthResult:
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"p@ss")

    def last_code(self) -> str:
        """What the newest message says."""
        return code_in(self.messages[-1])


def code_in(message: EmailMessage) -> str:
    match = CODE.search(message.get_content())
    assert match, message.get_content()
    return match[1]


@asynccontextmanager
async def mail_server(
    tls: ssl.SSLContext | None = None, *, login: bool = False, utf8: bool = True
) -> AsyncIterator[MailServer]:
    """With `tls` it speaks STARTTLS, with `login` only to whoever logs in, and with `utf8` to
    addresses beyond ASCII."""
    kept = MailServer()

    def protocol() -> SMTP:
        return SMTP(
            kept,
            hostname="mail.camelot.example",
            enable_SMTPUTF8=utf8,
            tls_context=tls,
            authenticator=kept.authenticate,
            auth_required=login,
        )

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    kept.url = f"smtp+plain://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield kept
        kept.is_free.set()


def mail_worker(app: FastAPI) -> MailWorker:
    state = app.state
    return MailWorker(state.database, state.settings, state.services.events, state.clock)


async def deliver(app: FastAPI, worker: MailWorker | None = None) -> None:
    """Send all that is due in the app's outbox: as a process of its own, or by this worker."""
    worker = worker or mail_worker(app)
    while await worker.run_once(asyncio.Event()):
        pass
    await worker.finish()
