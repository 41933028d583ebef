"""The limits, as values: no database, and the time is an argument.

A `Limit` is for guesses: each delay is twice the previous one. A `Rate` is for normal use: a burst,
then one per interval, so that a client waits no longer than necessary. Metrics count refusals by
their names.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Limit:
    """`allowed` failures have no delay. The next failure causes a delay of one second, which
    doubles with each further failure, up to `max_delay`. After `window` without a failure, all are
    forgotten."""

    allowed: int
    window: timedelta
    max_delay: timedelta = timedelta(minutes=15)
    name: str = "other"

    def delay(self, failures: int) -> timedelta:
        """The delay after that many failures."""
        excess = failures - self.allowed
        if excess < 0:
            return timedelta(0)
        return min(timedelta(seconds=2 ** min(excess, 20)), self.max_delay)


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` at once, and one more per `interval`: the generic cell rate algorithm (ITU-T I.371,
    annex A). It stores one time per key: when the next action is allowed."""

    burst: int
    interval: timedelta
    name: str = "other"

    @classmethod
    def hourly(cls, number: int, name: str = "other") -> "Rate":
        """A burst of `number`, and `number` more per hour."""
        return cls(number, timedelta(hours=1) / number, name)

    @property
    def slack(self) -> timedelta:
        """How far an unused key's time may lie in the past. It is what allows the burst."""
        return (self.burst - 1) * self.interval

    def after(self, allowed_at: datetime, now: datetime, times: int = 1) -> datetime:
        """When the next action is allowed after `times` actions at `now`."""
        return max(allowed_at, now - self.slack) + times * self.interval


# SP 800-63B-4, 3.2.2 allows 100 failures in a row. Here, 100 failures take most of a day.
ACCOUNT = Limit(allowed=5, window=timedelta(days=1), name="account")
ACCOUNT_AT_ADDRESS = Limit(allowed=10, window=timedelta(days=1), name="account_at_address")
# Many people may share an address. A successful login does not clear this counter, because an
# attacker who tries one password on many accounts may own an account too.
ADDRESS = Limit(allowed=20, window=timedelta(hours=1), name="address")
REGISTRATION = Limit(allowed=20, window=timedelta(hours=1), name="registration")
# Each attempt to register with an invitation counts, successful or not: a 409 reveals that a
# username is taken.
INVITATION = Limit(allowed=10, window=timedelta(days=1), name="invitation")
RESET = Limit(allowed=10, window=timedelta(hours=1), name="reset")
# Mail that is requested for a verified address from a network in which its user has logged in, and
# mail that one user may request for any mailbox.
MAILBOX = Limit(allowed=5, window=timedelta(days=1), max_delay=timedelta(hours=6), name="mailbox")
VERIFICATION = Limit(
    allowed=5, window=timedelta(days=1), max_delay=timedelta(hours=6), name="verification"
)

# Per session; a user has up to 100. Clients refresh once an hour, and HourpassAuth twice a minute
# if an API rejects every token.
SESSION_REFRESH = Rate(burst=120, interval=timedelta(seconds=15), name="session_refresh")
# Logins with the right password that stop at the second factor.
UNFINISHED_LOGIN = Rate(burst=60, interval=timedelta(minutes=1), name="unfinished_login")
# Each new secret allows five wrong codes, all of which go to the audit log.
NEW_SECRET = Rate(burst=20, interval=timedelta(minutes=3), name="new_secret")
# API keys that are created or rotated, per owner.
NEW_API_KEY = Rate(burst=100, interval=timedelta(days=1) / 100, name="new_api_key")
# Changed or resumed ones. Suspending has no limit: it must not have to wait.
API_KEY_CHANGE = Rate.hourly(100, "api_key_change")
# Per administrator.
NEW_INVITATION = Rate(burst=1_000, interval=timedelta(seconds=3.6), name="new_invitation")
# Test messages, per webhook.
WEBHOOK_TEST = Rate(burst=20, interval=timedelta(minutes=1), name="webhook_test")
# All clients together, registrations by invitation excluded.
REGISTRATIONS = Rate(burst=3_600, interval=timedelta(seconds=1), name="registrations")
# Mail for one mailbox that is requested from other networks, which may be a stranger's: from all of
# them, and from one of them. So one network leaves some to the others, on each day.
MAILBOX_FROM_ELSEWHERE = Rate(
    burst=5, interval=timedelta(days=1) / 5, name="mailbox_from_elsewhere"
)
MAILBOX_FROM_NETWORK = Rate(burst=3, interval=timedelta(days=1) / 3, name="mailbox_from_network")
