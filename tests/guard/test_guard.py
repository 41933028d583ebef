"""A guard with a real service: which tokens it accepts, and how soon it rejects revoked ones."""

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from hourpass import Guard, InvalidTokenError, User
from tests.support.guards import comes_true, refusal_of
from tests.support.processes import environment, killed_after
from tests.support.running_service import RunningService
from tests.support.users import ARTHUR, Person, claims_of, kid_of

pytest_plugins = ["tests.support.service_fixtures"]

es256_only = pytest.mark.parametrize("service", ["shared_service"], indirect=True)


@pytest.fixture(scope="module", params=["shared_service", "shared_hs256_service"])
def service(request: pytest.FixtureRequest) -> RunningService:
    """A guard verifies tokens itself with ES256, and asks the service with HS256."""
    service: RunningService = request.getfixturevalue(request.param)
    return service


@pytest.fixture(scope="module")
def guard(service: RunningService) -> Iterator[Guard]:
    with Guard(service.url) as guard:
        yield guard


def test_a_checked_token_returns_its_user(service: RunningService, guard: Guard) -> None:
    user = service.new_user()
    token = service.log_in(user)
    expires_at = datetime.fromtimestamp(claims_of(token)["exp"], UTC)
    expected = User(int(user["id"]), user["username"], frozenset(), expires_at)
    assert guard.check(token) == expected
    assert guard.check(token) == expected
    assert "admin" in guard.check(service.log_in(ARTHUR)).scopes


def test_a_guard_with_an_audience_of_its_own_accepts_tokens_for_that_alone(
    service: RunningService, guard: Guard
) -> None:
    models = "https://models.example/a?b=c&d"
    user = service.new_user()
    token, other = service.log_in(user, resource=models), service.log_in(user)
    with Guard(service.url, audience=models) as guard_of_models:
        assert guard_of_models.check(token).username == user["username"]
        assert refusal_of(guard_of_models, other) is InvalidTokenError
        assert refusal_of(guard, token) is InvalidTokenError
        service.revoke(token)
        assert comes_true(lambda: refusal_of(guard_of_models, token) is InvalidTokenError)


async def test_async_callers_get_the_same_answer(service: RunningService, guard: Guard) -> None:
    token = service.new_token()
    assert await guard.acheck(token) == guard.check(token)
    with pytest.raises(InvalidTokenError):
        await guard.acheck(token[:-8] + "AAAAAAAA")


class End(NamedTuple):
    revoke: Callable[[RunningService, str, Person], None]
    ends_others: bool = True
    scope: str = ""


ENDS = {
    "jti: token revoked": End(lambda c, token, _: c.revoke(token), ends_others=False),
    "sid: session ended": End(
        lambda c, token, _: c.end_session(token), ends_others=False, scope="offline_access"
    ),
    "sub: logged out": End(lambda c, token, _: c.log_out_everywhere(token)),
    "sub: user disabled": End(lambda c, _, user: c.disable(user)),
    "sub: user removed": End(lambda c, _, user: c.remove(user)),
}


def test_a_revoked_token_is_soon_rejected(
    service: RunningService, guard: Guard, subtests: pytest.Subtests
) -> None:
    bystander = service.new_token()
    for name, end in ENDS.items():
        with subtests.test(name):
            assert_that_it_is_soon_rejected(service, guard, end)
            assert refusal_of(guard, bystander) is None


def assert_that_it_is_soon_rejected(service: RunningService, guard: Guard, end: End) -> None:
    user = service.new_user()
    token = service.log_in(user, **({"scope": end.scope} if end.scope else {}))
    not_seen_yet = service.log_in(user)
    guard.check(token)
    end.revoke(service, token, user)
    assert comes_true(lambda: refusal_of(guard, token) is InvalidTokenError)
    assert refusal_of(guard, not_seen_yet) is (InvalidTokenError if end.ends_others else None)


def test_a_new_guard_rejects_tokens_that_were_revoked_before_it_started(
    service: RunningService,
) -> None:
    token = service.new_token()
    service.revoke(token)
    with Guard(service.url) as guard:
        assert refusal_of(guard, token) is InvalidTokenError


def test_50_threads_can_start_a_guard_at_the_same_time(service: RunningService) -> None:
    tokens = [service.new_token() for _ in range(3)]
    with ThreadPoolExecutor(50) as threads:
        guard = Guard(service.url)
        names = list(threads.map(lambda n: guard.check(tokens[n % 3]).username, range(50)))
        guard.close()
    assert len(set(names)) == 3
    assert names == [names[n % 3] for n in range(50)]


async def test_50_tasks_can_start_a_guard_at_the_same_time(service: RunningService) -> None:
    tokens = [service.new_token() for _ in range(3)]
    async with Guard(service.url) as guard:
        users = await asyncio.gather(*(guard.acheck(tokens[n % 3]) for n in range(50)))
    assert [user.id for user in users] == [users[n % 3].id for n in range(50)]


@es256_only
def test_tokens_of_a_stolen_key_are_revoked_and_those_of_the_next_key_are_valid(
    service: RunningService, guard: Guard
) -> None:
    user = service.new_user()
    stolen = service.log_in(user)
    guard.check(stolen)
    service.command("keys", "revoke", kid_of(stolen))
    assert comes_true(lambda: refusal_of(guard, stolen) is InvalidTokenError)
    assert comes_true(lambda: kid_of(service.log_in(user)) != kid_of(stolen))
    assert guard.check(service.log_in(user)).username == user["username"]


def test_a_cached_token_causes_no_request_to_the_service(
    service: RunningService,
) -> None:
    token = service.new_token()
    with Guard(service.url) as guard:
        guard.check(token)
        guard._feed._asked().close()
        assert refusal_of(guard, token) is None


@es256_only
def test_a_forked_process_follows_the_service_by_itself(service: RunningService) -> None:
    """As under gunicorn --preload, whose workers are forks of a process that has checked before."""
    token = service.new_token()
    program = """
        import os, sys
        sys.modules["fastapi"] = None  # its import would take most of the time
        from hourpass import Guard, InvalidTokenError
        url, token = sys.stdin.read().split()
        guard = Guard(url)
        guard.check(token)
        child = os.fork()
        guard.check(token)
        print("holds", flush=True)
        try:
            while True:
                guard.check(token)
        except InvalidTokenError:
            print("refused", flush=True)
        if child:
            os.waitpid(child, 0)
        os._exit(0)
    """
    # Guards follow the service in a thread. Since 3.12, Python warns of a fork beside threads.
    warnings = ("-W", "error", "-W", "ignore:This process (pid=:DeprecationWarning")
    with (
        subprocess.Popen(
            [sys.executable, *warnings, "-c", textwrap.dedent(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(PYTHONPATH=os.environ.get("PYTHONPATH", "")),
            start_new_session=True,
        ) as process,
        killed_after(60, process),
    ):
        assert process.stdin
        assert process.stdout
        process.stdin.write(f"{service.url} {token}")
        process.stdin.close()
        said = [process.stdout.readline() for _ in range(2)]
        service.revoke(token)
        said += [process.stdout.readline() for _ in range(2)]
    assert said == ["holds\n", "holds\n", "refused\n", "refused\n"]
