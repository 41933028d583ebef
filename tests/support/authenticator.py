"""An authenticator app as RFC 6238 describes it, written apart from the service's own code, and
what people with a second factor do over HTTP."""

import base64
import hmac
import struct
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from httpx import AsyncClient, Response

from tests.support.users import Person, bearer, log_in, open_session, register

if TYPE_CHECKING:  # conftest.py imports this module
    from tests.support.settings import Clock

STEP = timedelta(seconds=30)


class Authenticator:
    """Reads the otpauth:// URI that a QR code would hold, and has a clock of its own."""

    def __init__(self, uri: str, clock: "Clock") -> None:
        parts = urlsplit(uri)
        assert (parts.scheme, parts.netloc) == ("otpauth", "totp")
        self.label = parts.path
        self.parameters = {name: one for name, [one] in parse_qs(parts.query).items()}
        self._key = base64.b32decode(self.parameters["secret"])
        self._clock = clock
        self.recovery_codes: list[str] = []

    def code(self, ahead: int = 0) -> str:
        """What it shows, or would show so many steps later."""
        step = int(self._clock().timestamp()) // 30 + ahead
        mac = hmac.digest(self._key, struct.pack(">Q", step), "sha1")
        (number,) = struct.unpack_from(">I", mac, mac[-1] & 15)
        return f"{(number & 0x7FFFFFFF) % 10**6:06}"

    def next_code(self) -> str:
        """After the half minute that it takes until there is another one."""
        self._clock.advance(STEP)
        return self.code()

    def wrong_code(self) -> str:
        """None of those that are right within some minutes."""
        right = {self.code(ahead) for ahead in range(-9, 10)}
        return next(code for code in map("{:06}".format, range(20)) if code not in right)


async def begin(client: AsyncClient, person: Person, clock: "Clock") -> tuple[Authenticator, str]:
    """Enrol without confirming. Returns the token as well, which still holds."""
    token = await log_in(client, person)
    sent = {"password": person["password"]}
    response = await client.post("/me/second-factor", json=sent, headers=bearer(token))
    assert response.status_code == 201, response.text
    app = Authenticator(response.json()["otpauth_uri"], clock)
    assert response.json()["secret"] == app.parameters["secret"]
    return app, token


async def confirm(client: AsyncClient, token: str, otp: str) -> Response:
    return await client.post("/me/second-factor/confirm", json={"otp": otp}, headers=bearer(token))


async def enroll(client: AsyncClient, person: Person, clock: "Clock") -> Authenticator:
    """From now on this person needs a code."""
    app, token = await begin(client, person, clock)
    response = await confirm(client, token, app.code())
    assert response.status_code == 200, response.text
    app.recovery_codes = response.json()["recovery_codes"]
    clock.advance(STEP)
    return app


async def log_in_with(client: AsyncClient, person: Person, otp: str) -> Response:
    return await client.post("/token", json={**person, "otp": otp})


async def token_with(client: AsyncClient, person: Person, otp: str) -> str:
    response = await log_in_with(client, person, otp)
    assert response.status_code == 200, response.text
    token: str = response.json()["token"]
    return token


@dataclass(frozen=True, slots=True)
class EnrolledUser:
    """A user with a second factor and a session, and what only this user has."""

    id: int
    person: Person
    authenticator: Authenticator
    token: str
    refresh_token: str

    @property
    def credentials(self) -> dict[str, str]:
        """The password and the current code."""
        return {"password": self.person["password"], "otp": self.authenticator.code()}


async def register_enrolled(client: AsyncClient, person: Person, clock: "Clock") -> EnrolledUser:
    user_id = await register(client, person)
    authenticator = await enroll(client, person, clock)
    session = await open_session(client, {**person, "otp": authenticator.code()})
    clock.advance(STEP)
    tokens = (session["token"], session["refresh_token"])
    return EnrolledUser(user_id, person, authenticator, *tokens)
