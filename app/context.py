"""The context of a request: the database session, the time and the client."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession


@dataclass(slots=True)
class RequestContext:
    """The first argument of every operation. Commands of the CLI have one too."""

    session: AsyncSession
    now: datetime
    ip_address: str = ""
    user_agent: str = ""
    accept_language: str = ""  # RFC 9110, 12.5.4; for the language of mail
    request_id: str | None = None
    user_id: int | None = None  # set once a token or a password has been verified
