"""Signing keys as operators rotate and revoke them, and as workers publish them."""

import base64
import json
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from httpx import AsyncClient
from jose import jwk

from app.cli.main import main as hourpass
from app.context import RequestContext
from app.database.engine import Database
from app.settings import Settings
from app.tokens.signing_keys.keys import SigningKey
from app.tokens.signing_keys.store import KeyStore
from tests.support.settings import CHEAP_HASHING, Clock
from tests.support.users import token_is_valid


def make_key(kid: str) -> SigningKey:
    private = jwk.construct(ec.generate_private_key(ec.SECP256R1()), "ES256")
    return SigningKey(kid, "ES256", private, private.public_key(), Clock()())


def with_unknown_key(kid: str = "0123456789abcdef") -> str:
    """A token with a key that never existed."""
    header = json.dumps({"alg": "ES256", "kid": kid, "typ": "at+jwt"}, separators=(",", ":"))
    return base64.urlsafe_b64encode(header.encode()).decode().rstrip("=") + ".e30.e30"


async def rotate(database: Database, settings: Settings, clock: Callable[[], datetime]) -> str:
    async with database.session() as session:
        return await KeyStore(settings).rotate(RequestContext(session, clock()))


async def refresh_keys(client: AsyncClient, clock: Clock) -> None:
    """Workers read the keys every second, and at once if a token has an unknown key."""
    clock.advance(timedelta(seconds=1))
    assert not await token_is_valid(client, with_unknown_key())


async def published(client: AsyncClient) -> list[str]:
    return [key["kid"] for key in (await client.get("/.well-known/jwks.json")).json()["keys"]]


@pytest.fixture
def command(database_url: str) -> Callable[..., str]:
    """`command("rotate")` is `hourpass signing-keys rotate` on this test's database. Returns its
    output."""

    def run(*arguments: str, exit_code: int = 0, **settings: str) -> str:
        variables = {"DATABASE_URL": database_url, **CHEAP_HASHING, **settings}
        result = CliRunner().invoke(hourpass, ["signing-keys", *arguments], env=variables)
        assert result.exit_code == exit_code, result.output
        return result.output

    return run
