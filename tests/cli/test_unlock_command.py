"""`hourpass unlock` says what it did, and rejects invalid IP addresses."""

from httpx import AsyncClient

from tests.support.commands import Command, hourpass
from tests.support.markers import on_sqlite
from tests.support.users import GALAHAD, LANCELOT, bearer, log_in, register

__all__ = ["hourpass"]


@on_sqlite
async def test_it_says_whether_the_user_can_log_in(
    hourpass: Command, client: AsyncClient, arthurs_token: str
) -> None:
    await register(client, LANCELOT)
    galahad = await register(client, GALAHAD)
    path = f"/toggle-user-permission/{galahad}/0"
    assert (await client.put(path, headers=bearer(arthurs_token))).status_code == 200
    can = await hourpass("unlock", "lancelot")
    assert can.stdout == "Cleared the login counters of lancelot.\nlancelot can log in again.\n"
    assert await log_in(client, LANCELOT)
    cannot = await hourpass("unlock", "galahad")
    assert cannot.exit_code == 0
    assert "galahad is disabled, and cannot log in" in cannot.stdout
    assert "again" not in cannot.stdout


@on_sqlite
async def test_it_rejects_an_invalid_ip_address(hourpass: Command, client: AsyncClient) -> None:
    await register(client, GALAHAD)
    for option in ("--address", "--ip-address"):
        for text in ("zzz", "", "192.0.2.300", "192.0.2.0/24"):
            result = await hourpass("unlock", "galahad", option, text)
            assert result.exit_code == 2
            assert "is not an IP address" in result.output
        for text in ("192.0.2.1", "2001:db8::1"):
            assert (await hourpass("unlock", "galahad", option, text)).exit_code == 0
