"""Which subscribers get which events."""

from app.audit.service import write_entry
from app.events import Subscriber
from app.groups.old_guards import NARROWING_ACTIONS, note_members
from app.groups.token_size import check_granted_scopes
from app.mail.notices import TEMPLATES as NOTICES
from app.mail.notices import send_notice
from app.mail.service import VERIFICATION_ACTIONS, send_verification
from app.security.one_time_codes.service import INVALIDATING_ACTIONS, invalidate_codes
from app.settings import Settings
from app.webhooks.outbox import SUBSCRIBERS as WEBHOOKS


def subscribers_for(settings: Settings) -> tuple[Subscriber, ...]:
    """Order matters: old codes are deleted before new mail is queued."""
    subscribers = [
        Subscriber(write_entry),
        Subscriber(invalidate_codes, INVALIDATING_ACTIONS),
        Subscriber(check_granted_scopes, ("user.grant",)),
        *WEBHOOKS,
    ]
    if settings.old_guards:
        subscribers.append(Subscriber(note_members, NARROWING_ACTIONS))
    if settings.smtp_url is not None:
        subscribers.append(Subscriber(send_verification, VERIFICATION_ACTIONS))
        subscribers.append(Subscriber(send_notice, NOTICES))
    return tuple(subscribers)
