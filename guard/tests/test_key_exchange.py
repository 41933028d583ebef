"""A guard exchanges an API key once, checks its token like any other, and renews it in time."""

import asyncio
import gc
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from hashlib import blake2s
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
import trio

from hourpass import Guard, GuardError, InvalidTokenError, ServiceUnavailableError
from hourpass.api_keys import generate_key
from hourpass.guard import key_exchange
from hourpass.guard.client_budget import EXCHANGES_PER_SECOND, MAX_CLIENTS, ClientBudget
from hourpass.guard.invalid_tokens import MAX_REMEMBERED
from hourpass.guard.networks import client_network
from hourpass.guard.refused_keys import RefusedKeys
from hourpass.testing import Issuer, SigningKey, feed
from tests.support.guards import (
    comes_true,
    fast_garbage_collection,
    guard_messages,
    refusal_of,
)
from tests.support.handmade_tokens import KEYS_PATH, StillClock, answers, guarded
from tests.support.issuer_server import serving_issuer

pytest_plugins = ["hourpass.testing"]

MINUTE = timedelta(minutes=1)


@pytest.fixture
def issuer(hourpass_issuer: Issuer) -> Issuer:
    return hourpass_issuer


class Exchanges:
    """The exchanges of an issuer, which a test can delay or make fail."""

    def __init__(self, issuer: Issuer) -> None:
        self.number = self.running = self.most = 0
        self.status: int | None = None
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self._counting = threading.Lock()
        answers(issuer, "/token", self._answer)

    def _answer(self, _: httpx.Request) -> httpx.Response | None:
        with self._counting:
            self.number += 1
            self.running += 1
            self.most = max(self.most, self.running)
        assert self.may_go_on.wait(20)
        with self._counting:
            self.running -= 1
        return None if self.status is None else httpx.Response(self.status, json={"error": "x"})


@pytest.fixture
def exchanges(issuer: Issuer) -> Exchanges:
    return Exchanges(issuer)


def forged() -> str:
    """Anybody can compute the checksum."""
    return generate_key()


def test_a_key_is_exchanged_once_and_its_user_is_the_owner(
    issuer: Issuer, exchanges: Exchanges
) -> None:
    guard = guarded(issuer)
    key = issuer.api_key("predict:fraud-*", user_id=7, username="galahad")
    users = [guard.check(key) for _ in range(3)]
    users += [guard.check_header(f"Bearer {key}"), guard.check_header(key.encode())]
    assert {(user.id, user.username, user.key_id, user.kind) for user in users} == {
        (7, "galahad", key[3:11], "person")
    }
    assert users[0].may("predict:fraud-v3")
    assert not users[0].may("predict")
    assert exchanges.number == 1
    service = issuer.service_account("svc-nightly", "predict")
    assert guard.check(service.api_key("predict", "train")).scopes == {"predict"}
    assert guard.check(service.token()).kind == guard.check(service.api_key()).kind == "service"


def test_the_guard_asks_as_rfc_8693_says(issuer: Issuer) -> None:
    asked = []

    def answer(request: httpx.Request) -> None:
        asked.append((request.method, request.headers["Content-Type"], request.content))

    answers(issuer, "/token", answer)
    guard = guarded(issuer, audience="fraud api")
    key = issuer.api_key()
    guard.check(key)
    assert asked == [
        (
            "POST",
            "application/x-www-form-urlencoded",
            b"grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange"
            + f"&subject_token={key}".encode()
            + b"&subject_token_type=urn%3Ahourpass%3Aparams%3Aoauth%3Atoken-type%3Aapi_key"
            + b"&audience=fraud+api",
        )
    ]


def test_keys_are_exchanged_over_a_real_connection(issuer: Issuer) -> None:
    with serving_issuer(issuer) as url, Guard(url) as guard:
        first, second = issuer.api_key("predict"), issuer.api_key("train")
        for _ in range(2):
            assert guard.check(first).scopes == {"predict"}
            assert guard.check(second).scopes == {"train"}
        assert refusal_of(guard, forged()) is InvalidTokenError
        issuer.revoke(first)
        assert refusal_of(guard, first) is InvalidTokenError


def test_a_malformed_key_costs_no_request(issuer: Issuer, exchanges: Exchanges) -> None:
    guard = guarded(issuer)
    key = issuer.api_key()
    other = "a" if key[-1] != "a" else "b"
    for malformed in (
        key[:-1] + other,  # its checksum is wrong
        key.lower() if key != key.lower() else key.upper(),
        key.upper(),
        key[:-1],
        key + "0",
        key[:3] + " " + key[4:],
        key[:10] + "\n" + key[11:],
        key[:10] + "é" + key[11:],
        key[:10] + "\ud800" + key[11:],
        "hp_",
        "hp_" + "0" * 10_240,
    ):
        assert refusal_of(guard, malformed) is InvalidTokenError, malformed[:60]
    assert exchanges.number == 0


@pytest.mark.parametrize("change", ["revoked", "suspended", "expired", "its owner is disabled"])
def test_a_key_ends_at_once_and_works_again_if_the_service_says_so(
    issuer: Issuer, change: str
) -> None:
    guard = guarded(issuer)
    key = issuer.api_key("predict", expires_in=30 * MINUTE)
    guard.check(key)
    match change:
        case "revoked":
            issuer.revoke(key)
        case "suspended":
            issuer.suspend_api_key(key)
        case "expired":
            issuer.advance_time(31 * MINUTE)
        case _:
            issuer.disable(1)
    assert refusal_of(guard, key) is InvalidTokenError
    if change == "suspended":
        issuer.resume_api_key(key)
        assert guard.check(key).key_id == key[3:11]  # the refusal is forgotten
    if change == "its owner is disabled":
        issuer.enable(1)
        issuer.advance_time(timedelta(seconds=6))
        assert guard.check(key).id == 1


def test_a_narrowed_key_has_fewer_rights(issuer: Issuer, exchanges: Exchanges) -> None:
    guard = guarded(issuer)
    team = issuer.group("fraud-team", "predict:fraud-*")
    key = issuer.api_key("train", "predict:x", groups=[team])
    member = issuer.token(groups=[team])
    assert guard.check(key).scopes == {"train", "predict:x", "predict:fraud-*"}
    assert guard.check(member).scopes == {"predict:fraud-*"}
    issuer.change_api_key(key, scopes=["predict:x"])
    assert guard.check(key).scopes == {"predict:x", "predict:fraud-*"}
    issuer.narrow_group(team, "predict:fraud-v3")
    assert guard.check(key).scopes == {"predict:x", "predict:fraud-v3"}
    assert refusal_of(guard, member) is InvalidTokenError
    assert exchanges.number == 3
    new = issuer.rotate_api_key(key, overlap=10 * MINUTE)
    assert guard.check(key).scopes == guard.check(new).scopes
    issuer.advance_time(11 * MINUTE)
    assert refusal_of(guard, key) is InvalidTokenError
    assert guard.check(new).key_id == new[3:11]


async def test_callers_with_the_same_new_key_share_one_exchange(
    issuer: Issuer, exchanges: Exchanges
) -> None:
    guard = guarded(issuer)
    guard.start()
    key = issuer.api_key("predict")
    exchanges.may_go_on.clear()
    waiting = [asyncio.create_task(guard.acheck(key)) for _ in range(10)]
    assert await asyncio.to_thread(comes_true, lambda: exchanges.running == 1)
    waiting[0].cancel()  # its client is gone; the others still wait
    with ThreadPoolExecutor(5) as threads:
        blocked = [threads.submit(guard.check, key) for _ in range(5)]
        exchanges.may_go_on.set()
        users = {user.id for user in await asyncio.gather(*waiting[1:])}
        users |= {call.result().id for call in blocked}
    assert users == {1}
    assert exchanges.number == 1


def test_keys_work_in_trio(issuer: Issuer) -> None:
    guard = guarded(issuer)
    key = issuer.api_key()

    async def check() -> int:
        return (await guard.acheck(key)).id + (await guard.acheck_header(f"Bearer {key}")).id

    assert trio.run(check) == 2


def test_a_key_is_renewed_in_the_last_fifth_in_the_background(
    issuer: Issuer, exchanges: Exchanges
) -> None:
    guard = guarded(issuer)
    key = issuer.api_key()
    first = guard.check(key)
    issuer.advance_time(47 * MINUTE)
    assert guard.check(key) == first
    assert exchanges.number == 1
    exchanges.may_go_on.clear()
    issuer.advance_time(2 * MINUTE)
    for _ in range(20):
        assert guard.check(key) == first  # and does not wait
    assert comes_true(lambda: exchanges.number == 2)
    exchanges.may_go_on.set()
    assert comes_true(lambda: guard.check(key).expires_at > first.expires_at)
    issuer.advance_time(40 * MINUTE)
    assert guard.check(key).expires_at > first.expires_at
    assert exchanges.number == 2


def test_a_renewal_that_is_refused_ends_the_key_and_one_that_fails_does_not(
    issuer: Issuer, exchanges: Exchanges
) -> None:
    guard = guarded(issuer)
    key = issuer.api_key()
    first = guard.check(key)
    issuer.advance_time(49 * MINUTE)
    exchanges.status = 503
    for attempt in range(2, 4):
        assert guard.check(key) == first
        assert comes_true(lambda number=attempt: exchanges.number == number)  # type: ignore[misc] # a default
        assert comes_true(lambda: not guard._keys._exchanges)
        for _ in range(5):
            assert guard.check(key) == first  # not asked again at once
        assert exchanges.number == attempt
        issuer.advance_time(timedelta(seconds=6))
    exchanges.status = None
    del issuer._api_keys[key]  # without a revocation
    assert guard.check(key) == first
    assert comes_true(lambda: refusal_of(guard, key) is InvalidTokenError)


def test_during_an_outage_known_keys_work_until_their_token_expires(
    issuer: Issuer,
) -> None:
    guard = guarded(issuer, on_outage="trust", trust_for=60 * MINUTE)
    key, other = issuer.api_key(), issuer.api_key()
    guard.check(key)
    with issuer.outage(lasting=50 * MINUTE):
        assert refusal_of(guard, key) is None
        assert refusal_of(guard, other) is ServiceUnavailableError
        issuer.clock.advance(9 * MINUTE)
        assert refusal_of(guard, key) is None
        issuer.clock.advance(1.5 * MINUTE)
        assert refusal_of(guard, key) is ServiceUnavailableError
    assert comes_true(lambda: refusal_of(guard, key) is None)


def test_with_the_other_kind_of_outage_keys_are_as_tokens(issuer: Issuer) -> None:
    guard = guarded(issuer)
    key = issuer.api_key()
    guard.check(key)
    with issuer.outage(timedelta(seconds=8)):
        assert refusal_of(guard, key) is None
        issuer.clock.advance(timedelta(seconds=3))
        assert refusal_of(guard, key) is ServiceUnavailableError
        assert refusal_of(guard, issuer.api_key()) is ServiceUnavailableError


def test_unused_keys_are_forgotten_and_the_table_is_bounded(
    issuer: Issuer, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = guarded(issuer)
    for _ in range(3):
        guard.check(issuer.api_key())
    issuer.advance_time(61 * MINUTE)
    last = issuer.api_key()
    guard.check(last)
    assert len(guard._keys._known) == 1
    monkeypatch.setattr(key_exchange, "MAX_KEYS", 3)
    keys = [issuer.api_key() for _ in range(4)]
    for key in keys:
        guard.check(key)
    assert len(guard._keys._known) == 3
    number = exchanges.number
    guard.check(keys[-1])
    assert exchanges.number == number
    guard.check(last)
    assert exchanges.number == number + 1


def test_neither_keys_nor_their_plain_hashes_stay_in_memory(issuer: Issuer) -> None:
    first, second = guarded(issuer), guarded(issuer)
    key = issuer.api_key()
    first.check(key)
    second.check(key)
    [(digest, known)] = first._keys._known.items()
    assert len(digest) == 16
    assert digest not in second._keys._known
    assert digest != blake2s(key.encode(), digest_size=16).digest()
    assert {type(getattr(known, name)) for name in known.__slots__} == {str, int, float}
    assert known.token.startswith("eyJ")


@pytest.mark.parametrize("keys", ["public keys", "a shared secret"])
def test_after_a_signing_key_is_revoked_old_tokens_are_refused(
    issuer: Issuer, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch, keys: str
) -> None:
    assert key_exchange.MAX_EXCHANGES == 50
    monkeypatch.setattr(key_exchange, "MAX_EXCHANGES", 5)
    if keys == "a shared secret":
        answers(issuer, KEYS_PATH, lambda _: httpx.Response(200, json={"keys": []}))
        # The service would compare networks with the address of the guard.
        answers(issuer, "/verify", lambda _: httpx.Response(401))
    guard = guarded(issuer)
    known = [issuer.api_key() for _ in range(12)]
    for key in known:
        guard.check(key)
    exchanges.may_go_on.clear()
    exchanges.most = 0
    issuer.revoke_key()
    with ThreadPoolExecutor(12) as threads:
        calls = [threads.submit(guard.check, key) for key in known]
        assert comes_true(lambda: exchanges.running == 5)
        exchanges.may_go_on.set()
        assert {call.result().key_id for call in calls} == {key[3:11] for key in known}
    assert exchanges.most == 5
    assert exchanges.number == 24


def test_a_caller_waits_for_three_seconds(
    issuer: Issuer, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert key_exchange.WAIT_SECONDS == 3
    monkeypatch.setattr(key_exchange, "WAIT_SECONDS", 0.05)
    guard = guarded(issuer)
    guard.start()
    key = issuer.api_key()
    exchanges.may_go_on.clear()
    with pytest.raises(ServiceUnavailableError):
        guard.check(key)
    with pytest.raises(ServiceUnavailableError):
        asyncio.run(guard.acheck(key))

    async def in_trio() -> None:
        with pytest.raises(ServiceUnavailableError):
            await guard.acheck(key)

    trio.run(in_trio)
    exchanges.may_go_on.set()
    assert comes_true(lambda: refusal_of(guard, key) is None)
    assert exchanges.number == 1


async def test_more_async_callers_than_may_wait_get_503(
    issuer: Issuer, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert key_exchange.MAX_WAITING == 1_024
    monkeypatch.setattr(key_exchange, "MAX_WAITING", 2)
    guard = guarded(issuer)
    guard.start()
    key = issuer.api_key()
    exchanges.may_go_on.clear()
    waiting = [asyncio.create_task(guard.acheck(key)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ServiceUnavailableError):
        await guard.acheck(key)
    exchanges.may_go_on.set()
    await asyncio.gather(*waiting)
    assert (await guard.acheck(issuer.api_key())).id == 1


def test_forged_keys_cost_fifty_requests_a_second_for_each_client(
    issuer: Issuer, exchanges: Exchanges
) -> None:
    issuer.clock = StillClock()
    guard = guarded(issuer)
    guard.start()

    def refusals(number: int, address: str | None) -> list[type[GuardError]]:
        found = []
        for _ in range(number):
            with pytest.raises(GuardError) as error:
                guard.check(forged(), ip_address=address)
            found.append(type(error.value))
        return found

    fifty = [InvalidTokenError] * 50
    assert refusals(52, "192.0.2.1") == [*fifty, *[ServiceUnavailableError] * 2]
    assert exchanges.number == 50
    assert refusals(51, "2001:db8::1:1") == [*fifty, ServiceUnavailableError]
    assert refusals(1, "2001:db8::2:2") == [ServiceUnavailableError]  # of the same /64
    assert refusals(1, "::ffff:192.0.2.1") == [ServiceUnavailableError]
    assert refusals(1, "2001:db8:0:1::1") == [InvalidTokenError]
    assert refusals(51, None) == [*fifty, ServiceUnavailableError]
    issuer.clock.advance(timedelta(seconds=0.1))
    assert refusals(6, "192.0.2.1") == [*fifty[:5], ServiceUnavailableError]
    # Known keys are not concerned, and valid ones cost nothing.
    issuer.clock.advance(timedelta(seconds=1))
    for _ in range(60):
        assert guard.check(issuer.api_key(), ip_address="192.0.2.1").id == 1


def test_more_new_keys_than_may_be_exchanged_at_a_time_get_503(
    issuer: Issuer, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_exchange, "MAX_EXCHANGES", 5)
    guard = guarded(issuer)
    guard.start()
    exchanges.may_go_on.clear()
    keys = [issuer.api_key() for _ in range(5)]
    with ThreadPoolExecutor(5) as threads:
        calls = [
            threads.submit(guard.check, key, ip_address=f"192.0.2.{number}")
            for number, key in enumerate(keys)
        ]
        assert comes_true(lambda: exchanges.running == 5)
        with pytest.raises(ServiceUnavailableError) as refused:
            guard.check(issuer.api_key(), ip_address="192.0.2.99")
        assert refused.value.headers() == {"Retry-After": "2"}
        exchanges.may_go_on.set()
        assert {call.result().id for call in calls} == {1}


def test_the_table_of_clients_is_bounded() -> None:
    budget = ClientBudget()
    clients = [ip_network(2**100 + number) for number in range(MAX_CLIENTS)]
    for client in clients:
        budget.take(client, 0)
    with pytest.raises(ServiceUnavailableError):
        budget.take(None, 0.01)
    for _ in range(EXCHANGES_PER_SECOND - 1):
        budget.take(clients[0], 0.01)
    budget.take(None, 0.5)  # those that are as new are forgotten
    assert len(budget._full_at) == 2
    budget.give_back(clients[1])  # forgotten meanwhile
    assert len(budget._full_at) == 2
    assert client_network("fe80::1%eth0") == client_network("fe80::2")
    assert client_network("/run/app.sock") is None


def test_refusals_are_remembered_for_five_seconds_at_most_until_the_feed_moves(
    issuer: Issuer, exchanges: Exchanges
) -> None:
    clock = issuer.clock = StillClock()
    guard = guarded(issuer)
    guard.start()
    key = forged()
    for _ in range(5):
        assert refusal_of(guard, key) is InvalidTokenError
    assert exchanges.number == 1
    clock.advance(timedelta(seconds=4.9))
    assert refusal_of(guard, key) is InvalidTokenError
    assert exchanges.number == 1
    clock.advance(timedelta(seconds=0.2))
    assert refusal_of(guard, key) is InvalidTokenError
    assert exchanges.number == 2
    issuer.publish("jti:another")
    assert refusal_of(guard, key) is InvalidTokenError
    assert exchanges.number == 3


def test_a_refusal_from_before_the_feed_moved_is_not_remembered() -> None:
    refused = RefusedKeys()
    refused.add(b"1", "a", "b", 0)
    assert not refused.contain(b"1", "b", 0)
    refused.add(b"1", "b", "b", 0)
    assert refused.contain(b"1", "b", 4)
    assert not refused.contain(b"1", "b", 5)
    assert not refused.contain(b"1", "c", 0)
    for number in range(MAX_REMEMBERED):
        refused.add(b"%d" % number, "c", "c", 0)
    refused.add(b"one more", "c", "c", 0)
    assert not refused.contain(b"0", "c", 0)
    assert refused.contain(b"one more", "c", 0)


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (400, {"error": "unsupported_grant_type"}, "status 400, but not for the key"),
        (400, {"error": "invalid_target"}, "status 400, but not for the key"),
        (400, [], "not a JSON object"),
        (401, {}, "status 401"),
        (404, {}, "status 404"),
        (429, {}, "status 429"),
        (200, {}, "malformed token response"),
        (200, {"access_token": 1}, "malformed token response"),
    ],
)
def test_what_is_no_answer_is_an_outage_with_one_line_in_the_log(
    issuer: Issuer, caplog: pytest.LogCaptureFixture, status: int, body: Any, cause: str
) -> None:
    answers(issuer, "/token", lambda _: httpx.Response(status, json=body))
    guard = guarded(issuer)
    keys = [forged(), forged()]
    for key in keys:
        assert refusal_of(guard, key) is ServiceUnavailableError
    line = f"The Hourpass service could not exchange an API key: {cause}"
    assert guard_messages(caplog) == [line]
    assert not any(key[8:] in caplog.text for key in keys)


@pytest.mark.parametrize(
    "token", [Issuer.foreign_token, Issuer.expired_token, Issuer.revoked_token, lambda _: "x"]
)
def test_a_token_that_the_guard_cannot_accept_is_no_refusal_of_the_key(
    issuer: Issuer, token: Callable[[Issuer], str]
) -> None:
    given = token(issuer)
    answers(issuer, "/token", lambda _: httpx.Response(200, json={"access_token": given}))
    guard = guarded(issuer)
    assert refusal_of(guard, issuer.api_key()) is ServiceUnavailableError


def test_a_worker_that_is_behind_is_asked_again(issuer: Issuer) -> None:
    old = [issuer.token(jti="old")]
    answers(
        issuer,
        "/token",
        lambda _: httpx.Response(200, json={"access_token": old.pop()}) if old else None,
    )
    guard = guarded(issuer)
    guard.start()
    issuer.publish("jti:old")
    assert guard.check(issuer.api_key()).key_id


def test_new_signing_keys_need_no_exchange(issuer: Issuer, exchanges: Exchanges) -> None:
    guard = guarded(issuer)
    key = issuer.api_key()
    guard.check(key)
    both = [issuer._key.public_jwk(), SigningKey().public_jwk()]
    answers(issuer, KEYS_PATH, lambda _: httpx.Response(200, json={"keys": both}))
    state = guard._feed.state
    issuer.advance_time(6 * MINUTE)
    assert comes_true(lambda: guard._feed.state is not state)
    guard.check(key)
    assert exchanges.number == 1


def test_a_closed_guard_forgets_its_keys_and_ends_its_exchanges(
    issuer: Issuer, exchanges: Exchanges
) -> None:
    guard = guarded(issuer)
    key = issuer.api_key()
    guard.check(key)
    guard.close()
    guard.check(key)
    assert exchanges.number == 2
    keys = guard._keys
    keys._threads.shutdown()  # as close() does in another thread
    with pytest.raises(ServiceUnavailableError):
        guard.check(issuer.api_key())
    issuer.advance_time(50 * MINUTE)
    assert guard.check(key).id == 1  # its renewal has no thread


def test_closing_does_not_wait_for_exchanges_and_cancels_those_that_wait(
    issuer: Issuer, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_exchange, "MAX_EXCHANGES", 1)
    guard = guarded(issuer)
    first, second = issuer.api_key(), issuer.api_key()
    guard.check(first)
    guard.check(second)
    issuer.revoke_key()
    exchanges.may_go_on.clear()
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(refusal_of, guard, key) for key in (first, second)]
        assert comes_true(lambda: len(guard._keys._exchanges) == 2)
        guard.close()
        assert comes_true(lambda: any(call.done() for call in calls))
        exchanges.may_go_on.set()
        assert ServiceUnavailableError in {call.result() for call in calls}


def test_a_dropped_guard_leaves_no_thread(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "HEARTBEAT_SECONDS", 0.1)  # at the next one the thread ends
    before = set(threading.enumerate())  # those of guards of earlier tests may still end
    names = ("hourpass-feed", "hourpass-keys")

    def threads() -> list[str]:
        new = set(threading.enumerate()) - before
        return [thread.name for thread in new if thread.name.startswith(names)]

    def is_gone() -> bool:
        gc.collect()
        return threads() == []

    with fast_garbage_collection():
        guard = guarded(issuer)
        guard.check(issuer.api_key())
        issuer._undo.pop_all()
        assert len(threads()) == 2
        del guard
        assert comes_true(is_gone)


def test_a_copy_of_a_guard_reads_the_same_headers() -> None:
    guard = Guard("https://hourpass.example", api_key_headers=["X-API-Key"])
    copy = pickle.loads(pickle.dumps(guard))
    key = generate_key()
    assert copy.get_credential([(b"x-api-key", key.encode())]) == key


def test_a_first_check_waits_for_the_service_as_with_a_token(issuer: Issuer) -> None:
    guard = guarded(issuer, timeout=timedelta(seconds=0.1))
    key = issuer.api_key()
    with issuer.outage(timedelta(0)):
        started_at = time.monotonic()
        assert refusal_of(guard, key) is ServiceUnavailableError
        with pytest.raises(ServiceUnavailableError):
            asyncio.run(guard.acheck(key))
        assert time.monotonic() - started_at < 2
    assert comes_true(lambda: refusal_of(guard, key) is None)
