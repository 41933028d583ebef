"""The numbers in docs/security.md are those of the code. Each row says one of them literally.

A number of the code that changes without its row fails here, and so does one that the page has and
no row.
"""

import re
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_network
from math import ceil
from typing import NamedTuple

import pytest

from app import ip_addresses
from app.audit.service import MAX_ANONYMOUS_FAILURES
from app.credentials.api_keys import limits as api_key_limits
from app.credentials.api_keys import service as api_keys
from app.credentials.second_factors import code_checks
from app.credentials.sessions.service import MAX_PER_USER
from app.errors import (
    ApiError,
    ContentTooLargeError,
    HeadersTooLargeError,
    RequestTimeoutError,
    UriTooLongError,
)
from app.http import middleware
from app.ip_addresses import network_of
from app.mail.service import MAX_WAITING
from app.mail.worker import MAX_ACCOUNTS
from app.security.one_time_codes import service as codes
from app.security.one_time_codes import text
from app.security.one_time_codes.service import LIFETIMES, Purpose
from app.security.rate_limits import limits
from app.security.rate_limits.limits import (
    ACCOUNT,
    ACCOUNT_AT_ADDRESS,
    ADDRESS,
    INVITATION,
    MAILBOX,
    REGISTRATION,
    RESET,
    VERIFICATION,
    Limit,
    Rate,
)
from app.security.rate_limits.service import KNOWN_FOR, LOGINS_PER_WRITE, MAX_ROWS
from app.server import connections, protocol
from app.server.connections import Connections, TimeLimits
from app.settings import ROOT, Settings
from app.tokens.revocations.feed import MAX_LISTENERS
from app.tokens.revocations.service import CLOCK_MARGIN
from app.users.token_cache import MAX_CACHED
from tests.support.settings import make_settings

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
DAY, WEEK = timedelta(days=1), timedelta(weeks=1)

_NUMERALS = "one two three four five six seven eight nine ten eleven twelve"
WORDS: dict[str, float] = {word: number for number, word in enumerate(_NUMERALS.split(), start=1)}
WORDS |= {"a": 1, "an": 1, "twice": 2, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50}
WORDS |= {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "a million": 1_000_000}
WORDS |= {"half": 1 / 2, "quarter": 1 / 4, "three quarters": 3 / 4, "an eighth": 1 / 8}
UNITS = "second|minute|hour|day|week"

PAGE = (ROOT / "docs/security.md").read_text()
TEXT = " ".join(re.sub(r"\]\([^)]*\)", "]", PAGE).split())  # on one line, without links' targets

DEFAULTS = Settings.model_construct()
ACTIONS = Rate.hourly(DEFAULTS.user_actions_per_hour)
TIMES = TimeLimits()
SHORTEST_REQUEST = b"GET / HTTP/1.1\r\nHost:\r\n\r\n"


def an_hour(rate: Rate) -> tuple[int, float]:
    """At once, and in each hour."""
    return rate.burst, HOUR / rate.interval


def a_day(rate: Rate) -> tuple[int, float, float]:
    """At once, and in each day; and of how many days that is the number."""
    return rate.burst, DAY / rate.interval, 1


def guesses(rule: Limit, span: timedelta) -> int:
    """How many attempts a rule allows if each one is made as soon as its delay has passed."""
    number, elapsed = 0, timedelta()
    while elapsed < span:
        number += 1
        elapsed += rule.delay(number)
    return number


def next_guesses(rule: Limit, span: timedelta) -> int:
    """How many in each further span of that length."""
    return guesses(rule, 9 * span) - guesses(rule, 8 * span)


def with_open_files(number: int, limit: Callable[[], int]) -> int:
    """What a limit is while the process may have so many files open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "open_files", lambda: number)
        return limit()


def connections_kept() -> int:
    return Connections(make_settings("sqlite:///x.db")).limit


def days_of_the_audit_log() -> int:
    """For as long the newest trigger keeps entries."""
    path = ROOT / "alembic/versions/0007_index_fixes.py"
    return int(re.findall(r"_keep\(days=(\d+)\)", path.read_text())[0])


class Row(NamedTuple):
    """What the page says, with each number in braces; and what the code has for each of them."""

    phrase: str
    values: tuple[float, ...]


def row(phrase: str, *values: float | type[ApiError]) -> Row:
    return Row(phrase, tuple(one.status if isinstance(one, type) else one for one in values))


ROWS = [
    # Password guessing
    row("(IPv6 by /{64})", ip_network(network_of("2001:db8::1")).prefixlen),
    row(
        "After {5} failures per account, {20} per IP address or {10} per known pair",
        ACCOUNT.allowed,
        ADDRESS.allowed,
        ACCOUNT_AT_ADDRESS.allowed,
    ),
    row(
        "each delay is {twice} the one before, up to {15} minutes",
        ACCOUNT.delay(8) / ACCOUNT.delay(7),
        ACCOUNT.max_delay / MINUTE,
    ),
    row(
        "about {17} passwords per account in the first hour, and {four} in each further hour",
        guesses(ACCOUNT, HOUR),
        next_guesses(ACCOUNT, HOUR),
    ),
    row(
        "for each account {ten} at once, {22} in the first hour, {four} in each further hour",
        ACCOUNT_AT_ADDRESS.allowed,
        guesses(ACCOUNT_AT_ADDRESS, HOUR),
        next_guesses(ACCOUNT_AT_ADDRESS, HOUR),
    ),
    row("With 40 such accounts that is {400} at once", 40 * ACCOUNT_AT_ADDRESS.allowed),
    # Account enumeration
    row("can try {ten} names before", INVITATION.allowed),
    row(
        "can send {20} registrations per hour", REGISTRATION.allowed / (REGISTRATION.window / HOUR)
    ),
    row("can send {10} requests per hour", RESET.allowed / (RESET.window / HOUR)),
    # One-time codes
    row("{120} random bits", 8 * text.BYTES),
    row(
        "works once, for {30} minutes (password resets), {a} day (e-mail verification, and resets "
        "by an administrator) or {a} week (invitations, by default)",
        LIFETIMES[Purpose.RESET] / MINUTE,
        LIFETIMES[Purpose.VERIFY] / DAY,
        LIFETIMES[Purpose.INVITE] / WEEK,
    ),
    row("the newest {five} earlier ones stay valid", codes.MAX_EARLIER),
    row("(password resets), {a} day", LIFETIMES[Purpose.ADMIN_RESET] / DAY),
    row("If more than {five} accounts share an address", MAX_ACCOUNTS),
    row("only {five} get a code", MAX_ACCOUNTS),
    row(
        "From all networks together, {five} at once and {five} {a} day (one every {4.8} hours)",
        *a_day(limits.MAILBOX_FROM_ELSEWHERE),
        limits.MAILBOX_FROM_ELSEWHERE.interval / HOUR,
    ),
    row(
        "From one network of these, {three} at once and {three} {a} day",
        *a_day(limits.MAILBOX_FROM_NETWORK),
    ),
    row("the user has logged in within {90} days", KNOWN_FOR / DAY),
    row(
        "There, {five} go at once, and each further one waits {twice} as long as the one before, "
        "from {a} second up to {six} hours",
        MAILBOX.allowed,
        MAILBOX.delay(8) / MAILBOX.delay(7),
        MAILBOX.delay(MAILBOX.allowed) / SECOND,
        MAILBOX.max_delay / HOUR,
    ),
    row(
        "about {twenty} on the first day and {four} on each further day",
        round(guesses(MAILBOX, DAY), -1),
        next_guesses(MAILBOX, DAY),
    ),
    # Second factor and stolen tokens
    row(
        "at most {29} can be tried in {a} day",
        code_checks.BURST + DAY / code_checks.FORGIVEN_AFTER,
        1,  # the DAY above
    ),
    # Rate limits
    row(
        '"{600} at once, {600} an hour" means that {600} calls may come together and that one '
        "more is allowed every {6} seconds",
        *an_hour(ACTIONS),
        ACTIONS.burst,
        ACTIONS.interval / SECOND,
    ),
    row(
        "costs a hash | per user {600} at once, {600} an hour (`USER_ACTIONS_PER_HOUR`) "
        "| {a million} known addresses",
        *an_hour(ACTIONS),
        MAX_ROWS,
    ),
    row("| as logins | {100} per user;", MAX_PER_USER),
    row("per session {120} at once, {240} an hour", *an_hour(limits.SESSION_REFRESH)),
    row(
        "per user of the token {600} at once, {600} an hour (`USER_ACTIONS_PER_HOUR`) "
        "| an entry stays for {a} day longer than a token is valid",
        *an_hour(ACTIONS),
        CLOCK_MARGIN / DAY,
    ),
    row("a {101}st session)", MAX_PER_USER + 1),
    row("| audit log | per user {60} at once, {60} an hour |", *an_hour(limits.UNFINISHED_LOGIN)),
    row("| audit log | per user {20} at once, {20} an hour |", *an_hour(limits.NEW_SECRET)),
    row(
        "| {5} at once, {one} an hour (`too_many_codes`) | {100} in a row |",
        code_checks.BURST,
        HOUR / code_checks.FORGIVEN_AFTER,
        code_checks.MAX_FAILURES,
    ),
    row("| {200,000} rows, {a million} counters |", MAX_ANONYMOUS_FAILURES, MAX_ROWS),
    row(
        "per user {5} at once, each further one waits {twice} as long as the one before, up to "
        "{6} hours | {10} open codes per user; {10,000} waiting requests",
        VERIFICATION.allowed,
        VERIFICATION.delay(8) / VERIFICATION.delay(7),
        VERIFICATION.max_delay / HOUR,
        codes.MAX_OPEN,
        MAX_WAITING,
    ),
    row(
        "per address {10} an hour, then with delays; per mailbox {5} at once, {5} {a} day, of "
        "these from one network {3} at once, {3} {a} day",
        RESET.allowed / (RESET.window / HOUR),
        *a_day(limits.MAILBOX_FROM_ELSEWHERE),
        *a_day(limits.MAILBOX_FROM_NETWORK),
    ),
    row(
        "per address {20} an hour, then with delays; all addresses together, without invitations, "
        "{3,600} at once, {3,600} an hour",
        REGISTRATION.allowed / (REGISTRATION.window / HOUR),
        *an_hour(limits.REGISTRATIONS),
    ),
    row(
        "per owner {100} at once, {100} {a} day | {50} per user, without rotated ones; deleted "
        "{90} days after their end |",
        limits.NEW_API_KEY.burst,
        DAY / limits.NEW_API_KEY.interval,
        1,
        api_key_limits.MAX_PER_USER,
        api_keys.KEPT_FOR / DAY,
    ),
    row(
        "change or resume an API key | feed, audit log | per owner {100} at once, {100} an hour",
        *an_hour(limits.API_KEY_CHANGE),
    ),
    row(
        "API keys add at most {200} an hour ({100} resumed and suspended ones) and {200} {a} day "
        "({100} created and revoked ones)",
        2 * an_hour(limits.API_KEY_CHANGE)[1],
        an_hour(limits.API_KEY_CHANGE)[1],
        2 * DAY / limits.NEW_API_KEY.interval,
        1,
        DAY / limits.NEW_API_KEY.interval,
    ),
    row("per administrator {1,000} at once, {1,000} an hour", *an_hour(limits.NEW_INVITATION)),
    row("{16,384} cached tokens per worker", MAX_CACHED),
    row(
        "at most {1,800} entries an hour to the feed: {600} revoked tokens, {600} revoked sessions "
        "and {600} times all tokens; in the first hour {twice} as many",
        3 * an_hour(ACTIONS)[1],
        *[an_hour(ACTIONS)[1]] * 3,
        1 + ACTIONS.burst / an_hour(ACTIONS)[1],
    ),
    # Two of each login that opens a session, and one of each of the other three.
    row("the limit is {3,000} rows an hour", 5 * an_hour(ACTIONS)[1]),
    row(
        "writes down {20} logins of an account at a time. Each worker may therefore let {20} more "
        "logins through, and the up to {10} in progress",
        LOGINS_PER_WRITE,
        LOGINS_PER_WRITE,
        Settings.model_fields["database_pool_size"].default,
    ),
    # Client IP addresses
    row("with that address, at most once {an} hour", ip_addresses.WARNING_INTERVAL / 3600),
    # Requests and connections
    row("| path and query | {8,192} bytes | {414} |", middleware.MAX_TARGET_BYTES, UriTooLongError),
    row(
        "| header fields | {16,384} bytes | {431} |",
        middleware.MAX_HEADER_BYTES,
        HeadersTooLargeError,
    ),
    row("| body | {16,384} bytes | {413} |", middleware.MAX_BODY_BYTES, ContentTooLargeError),
    row(
        "trailer fields of a body | {16,384} bytes | {431} |",
        middleware.MAX_HEADER_BYTES,
        HeadersTooLargeError,
    ),
    row("after the last response | {1} MiB |", protocol.MAX_DROPPED_BYTES / 2**20),
    row(
        "what {1,024} bytes hold ({41} at most) | reading stops at {16,384} further bytes, plus "
        "one read of {64} KiB at most",
        protocol.SLICE_BYTES,
        ceil(protocol.SLICE_BYTES / len(SHORTEST_REQUEST)),
        protocol.MAX_HELD_BYTES,
        2 * protocol.RECEIVE_BUFFER_BYTES / 2**10,  # Linux doubles it
    ),
    row("end of the first head | {10} s | closed; {408}", TIMES.first_head, RequestTimeoutError),
    row("head of a later request | {10} s | {408} |", TIMES.head, RequestTimeoutError),
    row("| body | {20} s | {408} |", TIMES.body, RequestTimeoutError),
    row("idle between two requests | {5} s |", TIMES.idle),
    row("idle while the service stops | {1} s |", TIMES.idle_at_stop),
    row(
        "takes less than {32} KiB of its responses | {30} s |",
        protocol.MIN_READ_BYTES / 2**10,
        TIMES.stalled,
    ),
    row("after a response that ends the connection | {5} s |", TIMES.closing),
    row("`MAX_CONNECTIONS`: {20,000}, or what", connections.DEFAULT_MAX_CONNECTIONS),
    row(
        "one IPv4 address or IPv6 /{64} | `MAX_CONNECTIONS_PER_NETWORK`: {three quarters} of these",
        ip_network(network_of("2001:db8::1")).prefixlen,
        connections.NETWORK_SHARE,
    ),
    row(
        "of these connections, {5,000} at most |",
        MAX_LISTENERS,
    ),
    row("checks the times once {a} second", connections._SWEEP_SECONDS),
    row("while {100} connections are being rejected like this", connections.MAX_REFUSALS),
    row("one warning {a} minute", connections._WARNING_SECONDS / 60),
    row(
        "{200} files, the database pool and the listen backlog ({an eighth} of the limit, {2,048} "
        "at most) are kept free",
        connections._RESERVED_FILES,
        with_open_files(8_000, connections.backlog) / 8_000,
        with_open_files(1_000_000, connections.backlog),
    ),
    row(
        "With a limit of 1,024 that leaves {686} connections; with 20,000 it leaves {17,742}",
        with_open_files(1_024, connections_kept),
        with_open_files(20_000, connections_kept),
    ),
    # Audit log and database roles
    row("younger than {29} days", days_of_the_audit_log()),
]

# Numbers that are none of the code's, as regular expressions.
EXCEPTIONS = [
    # Standards, versions and documents
    r"RFC \d+(, [\d.]+)?",
    r"\(ASVS 5\.0, 6\.5\.2 asks for 112\)",
    r"HTTP/1\.[01]|IPv[46]|PBKDF2|Argon2|h2c",
    r"Before version 15 of PostgreSQL",
    r"\[decision \d+\]",
    # Status codes, which the tests of each answer have
    r"(?<![\d,])(400|403|409|429|503)(?! at once)(?!,?\d)",
    # Measured, and dated where it may change
    r"The measurement of 2026-11-24 .*?(?=Three cases remain)",
    r"medians of 300 interleaved samples were 22\.15, 22\.17 and 22\.13 ms",
    r"at 1\.16 ms for a name that exists and 1\.18 ms for one",
    r"medians of 300 interleaved samples were 2\.54 ms for an address with an account and 2\.55 ms",
    r"about 900 kB",
    r"repeats four of these actions .*?(?=## Client IP addresses)",
    r"about 215 KiB of memory \(measured with 1,000 .*? takes 22 KiB",
    r"The measurement of 2026-11-28 used two cores .*? from 105 to 112 MiB \(290 MiB\)",
    # Examples, of which the row has the result
    r"With 40 such accounts",
    r"With a limit of 1,024 that leaves",
    r"with 20,000 it leaves",
    # No limits
    r"Three cases remain",
    r"thousands of addresses",
    r"use two roles",
    r"Of twelve simultaneous requests",
    r"between two requests",
    r"whose length two servers could read",
    # test_half_of_all_connections_may_listen_to_the_feed_and_5000_at_most
    r"half of these connections",
]


Place = tuple[int, int]


def places_of(row: Row) -> list[Place]:
    """Where the page has the numbers of a row."""
    plain = re.sub(r"[{}]", "", row.phrase)
    assert TEXT.count(plain) == 1, f"{TEXT.count(plain)} times in docs/security.md: {plain}"
    start = TEXT.index(plain)
    places = []
    for number, found in enumerate(re.finditer(r"\{([^}]*)\}", row.phrase)):
        begin = start + found.start() - 2 * number
        places.append((begin, begin + len(found[1])))
    return places


def number_of(word: str) -> float:
    return WORDS[word] if word in WORDS else float(word.replace(",", ""))


@pytest.mark.parametrize("row", ROWS, ids=[row.phrase for row in ROWS])
def test_each_number_of_the_page_is_that_of_the_code(row: Row) -> None:
    places = places_of(row)
    written = [number_of(TEXT[begin:end]) for begin, end in places]
    assert written == list(row.values)


def test_each_number_of_the_page_has_a_row() -> None:
    covered = {
        place for row in ROWS for begin, end in places_of(row) for place in range(begin, end)
    }
    for exception in EXCEPTIONS:
        found = list(re.finditer(exception, TEXT))
        assert found, f"not in docs/security.md any more: {exception}"
        covered |= {place for one in found for place in range(*one.span())}
    # "a" and "one" are numbers before a unit of time; "600 an hour" has one already.
    words = "|".join(sorted(set(WORDS) - {"a", "an", "one"}, key=len, reverse=True))
    numbers = rf"\d[\d,.]*(?<=\d)|\b({words})\b|\b(a|one)(?= ({UNITS})\b(?! factor))"
    left = [
        TEXT[max(0, found.start() - 60) : found.end() + 30]
        for found in re.finditer(numbers, TEXT, re.IGNORECASE)
        if not covered.issuperset(range(*found.span()))
    ]
    assert left == []
