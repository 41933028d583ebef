"""Which IP address a client has, with and without proxies."""

import pytest

from app.ip_addresses import client_ip_address
from app.main import create_app
from tests.support.login_attempts import (
    ELSEWHERE,
    HOME,
    PROXY,
    SMALL_LIMITS,
    log_in_at,
    nobody,
    set_small_limits,
)
from tests.support.markers import on_sqlite
from tests.support.settings import Clock, make_settings

TRUSTED = make_settings(
    "sqlite:///x.db", trusted_proxies=f"{PROXY}, 10.0.0.0/8,::1"
).trusted_proxies


def test_the_address_is_the_first_one_that_is_not_a_proxy(subtests: pytest.Subtests) -> None:
    for peer, forwarded, address in (
        (HOME, [], HOME),
        (HOME, ["1.2.3.4"], HOME),  # not from a proxy
        (PROXY, [], PROXY),
        (PROXY, [HOME], HOME),
        (PROXY, ["1.2.3.4, " + HOME], HOME),
        (PROXY, ["1.2.3.4", HOME], HOME),
        (PROXY, [HOME + ", 10.1.2.3"], HOME),
        (PROXY, ["10.9.9.9"], "10.9.9.9"),
        (PROXY, ["junk"], PROXY),
        (PROXY, [HOME + ", junk"], PROXY),
        (PROXY, ["", ","], PROXY),
        (PROXY, [HOME + ":4711"], HOME),
        (PROXY, ["[2001:db8::1]:4711"], "2001:db8::1"),
        (PROXY, ["::ffff:" + HOME], HOME),
        (f"::ffff:{PROXY}", [HOME], HOME),
        ("::1", [HOME], HOME),
        ("fe80::1%eth0", [], "fe80::1"),
        ("", [HOME], HOME),  # a Unix socket
        ("", [], ""),
        (PROXY, [", ".join([HOME] + ["10.0.0.1"] * 20)], "10.0.0.1"),
    ):
        with subtests.test(peer=peer, forwarded=forwarded):
            assert client_ip_address(peer, forwarded, TRUSTED) == address


def test_only_listed_proxies_are_trusted() -> None:
    for forwarded in ([HOME], [f"1.2.3.4, {HOME}"]):
        assert client_ip_address(PROXY, forwarded, ()) == PROXY
        assert client_ip_address("", forwarded, ()) == ""


@on_sqlite
async def test_clients_behind_a_proxy_are_told_apart(
    database_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_small_limits(monkeypatch)
    app = create_app(make_settings(database_url, trusted_proxies=PROXY), clock, clock)

    async def status(number: int, forwarded: str) -> int:
        headers = {"X-Forwarded-For": forwarded}
        return (await log_in_at(app, PROXY, nobody(number), **headers)).status_code

    async with app.router.lifespan_context(app):
        for number in range(SMALL_LIMITS["ADDRESS"]):
            assert await status(number, f"1.2.3.{number}, {HOME}") == 401
        assert await status(98, f"1.1.1.1, {HOME}") == 429
        assert await status(98, ELSEWHERE) == 401
