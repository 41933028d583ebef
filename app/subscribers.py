"""Which subscribers get which events."""

from app.audit.service import write_entry
from app.events import Subscriber
from app.mail.notices import TEMPLATES as NOTICES
from app.mail.notices import send_notice
from app.mail.service import VERIFICATION_ACTIONS, send_verification
from app.security.one_time_codes.service import INVALIDATING_ACTIONS, invalidate_codes
from app.settings import Settings


def subscribers_for(settings: Settings) -> tuple[Subscriber, ...]:
    """Order matters: old codes are deleted before new mail is queued."""
    subscribers = (Subscriber(write_entry), Subscriber(invalidate_codes, INVALIDATING_ACTIONS))
    if settings.smtp_url is None:
        return subscribers
    return (
        *subscribers,
        Subscriber(send_verification, VERIFICATION_ACTIONS),
        Subscriber(send_notice, NOTICES),
    )
