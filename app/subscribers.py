"""Who listens to what the core announces."""

from app.audit.service import write
from app.events import Listener
from app.mail.service import ask_to_verify
from app.security.one_time_codes.service import void
from app.settings import Settings


def listeners_for(settings: Settings) -> tuple[Listener, ...]:
    """In their order: what an address was sent before is void before it is sent something new."""
    mailing = (ask_to_verify,) if settings.smtp_url else ()
    return (write, void, *mailing)
