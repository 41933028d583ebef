"""How much is allowed, and how often.

A `Limit` is for guesses: each delay is twice the previous one. A `Rate` is for normal use: so many
at once, then one per interval, so that a client waits no longer than it has to.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Limit:
    """`allowed` failures have no delay. After the next one the delay is a second; it doubles with
    each further failure, up to `max_delay`. Without a failure for `window`, all are forgotten."""

    allowed: int
    window: timedelta
    max_delay: timedelta = timedelta(minutes=15)

    def delay(self, failures: int) -> timedelta:
        """After that many failures."""
        beyond = failures - self.allowed
        if beyond < 0:
            return timedelta(0)
        return min(timedelta(seconds=2 ** min(beyond, 20)), self.max_delay)


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` at once, and one more per `interval`: the generic cell rate algorithm (ITU-T I.371,
    annex A), which keeps one moment per key."""

    burst: int
    interval: timedelta

    @classmethod
    def hourly(cls, number: int) -> "Rate":
        """That many at once, and as many again in each hour."""
        return cls(number, timedelta(hours=1) / number)

    @property
    def slack(self) -> timedelta:
        """How far behind the present the moment of a key stays that nobody has used."""
        return (self.burst - 1) * self.interval

    def after(self, allowed_at: datetime, now: datetime, times: int = 1) -> datetime:
        """When the next one is allowed once `times` of them have been made at `now`."""
        return max(allowed_at, now - self.slack) + times * self.interval


# SP 800-63B-4, 3.2.2 allows 100 failures in a row; here that many take the better part of a day.
ACCOUNT = Limit(allowed=5, window=timedelta(days=1))
ACCOUNT_AT_ADDRESS = Limit(allowed=10, window=timedelta(days=1))
# Many people may share one. A success does not clear it: whoever sprays may own an account too.
ADDRESS = Limit(allowed=20, window=timedelta(hours=1))
REGISTRATION = Limit(allowed=20, window=timedelta(hours=1))
# Each registration by it that is tried, succeed or not: a 409 tells that a name is taken.
INVITATION = Limit(allowed=10, window=timedelta(days=1))
RESET = Limit(allowed=10, window=timedelta(hours=1))
# What strangers may have sent to one mailbox, and what one user may have sent to any.
MAILBOX = Limit(allowed=5, window=timedelta(days=1), max_delay=timedelta(hours=6))
VERIFICATION = Limit(allowed=5, window=timedelta(days=1), max_delay=timedelta(hours=6))

# One session, of which a user has up to 100. Clients renew once an hour, and HourpassAuth twice a
# minute if an API refuses every token.
RENEWAL = Rate(burst=120, interval=timedelta(seconds=15))
# Logins with the right password that stop at the second factor.
UNFINISHED_LOGIN = Rate(burst=60, interval=timedelta(minutes=1))
# Each new secret can be confirmed with five wrong codes, all of which the audit log keeps.
NEW_SECRET = Rate(burst=20, interval=timedelta(minutes=3))
# One administrator.
NEW_INVITATION = Rate(burst=1_000, interval=timedelta(seconds=3.6))
# All addresses together, without those who have an invitation.
REGISTRATIONS = Rate(burst=3_600, interval=timedelta(seconds=1))
