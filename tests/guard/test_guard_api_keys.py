"""API keys in a guard with a real service, which creates and revokes them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from app.database.engine import Database
from app.tokens.revocations.service import Revocations
from hourpass import Guard, InvalidTokenError
from tests.support.api_keys import change_key, forge, insert_key
from tests.support.guards import comes_true, refusal_of
from tests.support.running_service import RunningService
from tests.support.settings import make_settings, utc_now
from tests.support.users import kid_of

pytest_plugins = ["tests.support.service_fixtures"]


class KeyMaker:
    """Another process on the service's database, as `hourpass api-keys` is."""

    def __init__(self, url: str) -> None:
        self._settings = make_settings(url)

    def new_key(self, user_id: str, **columns: Any) -> str:
        key: str = asyncio.run(self._do(lambda app: insert_key(app, int(user_id), **columns)))
        return key

    def change(self, key: str, **columns: Any) -> None:
        asyncio.run(self._do(lambda app: change_key(app, key, **columns)))

    async def _do(self, operation: Callable[[Any], Awaitable[Any]]) -> Any:
        database = Database(self._settings, utc_now)
        services = SimpleNamespace(revocations=Revocations(timedelta(hours=1)))
        state = SimpleNamespace(database=database, services=services, clock=utc_now)
        try:
            return await operation(SimpleNamespace(state=state))
        finally:
            await database.close()


@pytest.fixture(scope="module", params=["shared_service", "shared_hs256_service"])
def service(request: pytest.FixtureRequest) -> RunningService:
    service: RunningService = request.getfixturevalue(request.param)
    return service


@pytest.fixture(scope="module")
def maker(service: RunningService) -> KeyMaker:
    return KeyMaker(service._database_url)


@pytest.fixture(scope="module")
def guard(service: RunningService) -> Iterator[Guard]:
    with Guard(service.url) as guard:
        yield guard


def test_a_key_is_its_owner_with_the_scopes_of_the_key(
    service: RunningService, guard: Guard, maker: KeyMaker
) -> None:
    user = service.new_user()
    service.command("grant", user["username"], "predict", "train")
    key = maker.new_key(user["id"], scopes="predict")
    checked = guard.check(key)
    assert (checked.id, checked.username) == (int(user["id"]), user["username"])
    assert checked.scopes == {"predict"}
    assert (checked.key_id, checked.kind) == (key[3:11], "person")
    assert guard.check(key) == checked
    assert refusal_of(guard, forge(key)) is InvalidTokenError


@pytest.mark.parametrize("end", ["revoked", "suspended", "owner disabled", "owner removed"])
def test_a_key_that_ended_is_soon_rejected(
    service: RunningService, guard: Guard, maker: KeyMaker, end: str
) -> None:
    user = service.new_user()
    key = maker.new_key(user["id"])
    guard.check(key)
    match end:
        case "revoked":
            maker.change(key, revoked_at=utc_now())
        case "suspended":
            maker.change(key, suspended_at=utc_now())
        case "owner disabled":
            service.disable(user)
        case _:
            service.remove(user)
    assert comes_true(lambda: refusal_of(guard, key) is InvalidTokenError)


def test_a_narrowed_key_has_less_and_one_with_networks_works_there_only(
    service: RunningService, guard: Guard, maker: KeyMaker
) -> None:
    user = service.new_user()
    service.command("grant", user["username"], "predict", "train")
    key = maker.new_key(user["id"])
    assert guard.check(key).scopes == {"predict", "train"}
    maker.change(key, scopes="predict")
    assert comes_true(lambda: guard.check(key).scopes == {"predict"})
    maker.change(key, networks="192.0.2.0/24")
    assert comes_true(lambda: refusal_of(guard, key) is InvalidTokenError)
    assert guard.check(key, ip_address="192.0.2.1").id == int(user["id"])


@pytest.mark.parametrize("service", ["shared_service"], indirect=True)  # HS256's is a setting
def test_a_revoked_signing_key_ends_no_api_key(
    service: RunningService, guard: Guard, maker: KeyMaker
) -> None:
    key = maker.new_key(service.new_user()["id"])
    guard.check(key)
    token = known_token(guard)
    kid = kid_of(token)
    assert guard._feed.state
    service.command("keys", "revoke", kid)
    revocations = guard._feed.state.revocations
    assert comes_true(lambda: not revocations.contains_none([f"kid:{kid}"]))
    assert comes_true(lambda: refusal_of(guard, key) is None)
    assert kid_of(known_token(guard)) != kid


def known_token(guard: Guard) -> str:
    """The token of the key that was exchanged last."""
    return list(guard._keys._known.values())[-1].token
