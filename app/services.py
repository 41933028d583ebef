"""Creates the services, once per process, for the server and the command line."""

from dataclasses import dataclass
from datetime import timedelta

from app.accounts.invitations.service import Invitations
from app.accounts.password_resets.service import PasswordResets
from app.accounts.registration.service import Registration
from app.accounts.service_accounts.service import ServiceAccounts
from app.audit.erasure import Erasure
from app.credentials.api_keys.service import ApiKeys
from app.credentials.second_factors.service import SecondFactors
from app.credentials.sessions.service import Sessions
from app.events import Events
from app.groups.service import Groups
from app.mail.service import Mail
from app.security.passwords import Passwords
from app.security.rate_limits.service import LoginLimiter
from app.settings import Settings
from app.subscribers import subscribers_for
from app.tokens.revocations.cache import RevocationCache
from app.tokens.revocations.service import Revocations
from app.tokens.signing_keys.store import KeyStore
from app.users.reauthentication import Reauthentication
from app.users.service import Users
from app.webhooks.sender import WebhookSender
from app.webhooks.service import Webhooks


@dataclass(frozen=True, slots=True)
class Services:
    events: Events
    passwords: Passwords
    login_limiter: LoginLimiter
    keys: KeyStore
    revocations: Revocations
    users: Users
    sessions: Sessions
    groups: Groups
    second_factors: SecondFactors
    api_keys: ApiKeys
    mail: Mail
    registration: Registration
    service_accounts: ServiceAccounts
    invitations: Invitations
    password_resets: PasswordResets
    erasure: Erasure
    webhook_sender: WebhookSender
    webhooks: Webhooks

    def close(self) -> None:
        self.passwords.close()


def build_services(settings: Settings, revocation_cache: RevocationCache | None = None) -> Services:
    """Create the services. Opens no connection. `revocation_cache` is only for processes that check
    tokens."""
    events = Events(subscribers_for(settings))
    passwords = Passwords(settings)
    limiter = LoginLimiter(settings)
    revocations = Revocations(timedelta(minutes=settings.token_minutes), revocation_cache)
    users = Users(passwords, revocations, events, settings)
    reauthentication = Reauthentication(users, passwords, limiter, events)
    sessions = Sessions(revocations, events, settings)
    api_keys = ApiKeys(users, revocations, events, settings)
    mail = Mail(users, settings)
    webhook_sender = WebhookSender(settings)
    return Services(
        events=events,
        passwords=passwords,
        login_limiter=limiter,
        keys=KeyStore(settings, events),
        revocations=revocations,
        users=users,
        sessions=sessions,
        groups=Groups(users, revocations, events, sessions.revoke_access_tokens),
        second_factors=SecondFactors(users, reauthentication, events, settings),
        api_keys=api_keys,
        mail=mail,
        registration=Registration(users, limiter, settings),
        service_accounts=ServiceAccounts(users, events, settings),
        invitations=Invitations(events, mail, settings),
        password_resets=PasswordResets(users, api_keys, limiter, events, mail),
        erasure=Erasure(events),
        webhook_sender=webhook_sender,
        webhooks=Webhooks(webhook_sender, events, settings),
    )
