"""Reading tokens: any token that this service did not write, to the letter, is invalid.

No forgery is accepted, and none makes the service fail.
"""

import base64
import hashlib
import hmac
import itertools
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from fastapi import FastAPI
from httpx import AsyncClient, Response
from hypothesis import assume, given, note
from hypothesis import settings as examples
from hypothesis import strategies as st

from app.settings import Settings
from app.tokens import jwt
from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import AccessTokenRequest, AccessTokens, Claims
from app.tokens.signing_keys.keys import Keyring, SigningKey
from tests.support.claims import JSON_VALUES, NotedClaims
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.signing_keys import make_key
from tests.support.users import LANCELOT, assert_problem, bearer, log_in, register

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


KEY = make_key("camelot")
STRANGER = make_key("camelot")  # of the same name, but another key
TOKENS = AccessTokens(Settings.model_construct(), Keyring([KEY]))  # whatever the environment says
GRANT = AccessTokenRequest(
    "1",
    "lancelot",
    7,
    "admin offline_access",
    NOW,
    "0123456789abcdef.1",
    ("pwd", "otp"),
    client_id="0123456789abcdef",
    kind="service",
    is_limited=True,
    groups=("7.12", "8.0"),
    networks=("192.0.2.0/24", "2001:db8::/32"),
    audience="ml-api",
    not_after=NOW + timedelta(minutes=59),
)
TOKEN = TOKENS.encode(GRANT, NOW)  # with every claim that is optional


def encoded(part: object) -> str:
    """base64url of bytes as they are, or of anything else as the service's own JSON."""
    raw = part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decoded(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def signed(key: SigningKey, header: str, payload: str) -> str:
    """A valid signature over segments that may be invalid."""
    message = f"{header}.{payload}"
    return f"{message}.{encoded(key.private.sign(message.encode()))}"


def spare_bits_altered(segment: str) -> str:
    """Another last character for the same bytes: only its bits that encode nothing change."""
    assert len(segment) % 4 != 0
    return segment[:-1] + ALPHABET[ALPHABET.index(segment[-1]) ^ 1]


class Original:
    """A valid token and the key that signed it: what a forger starts from."""

    def __init__(self, token: str, key: SigningKey) -> None:
        self.token = token
        self.key = key
        self.header, self.payload, self.signature = token.split(".")
        self.claims: dict[str, Any] = json.loads(decoded(self.payload))

    def with_header(self, part: object) -> str:
        """Any other header, validly signed."""
        return signed(self.key, encoded(part), self.payload)

    def with_members(self, **members: object) -> str:
        """The header with members changed, added, or (by None) left out; validly signed."""
        header = {**json.loads(decoded(self.header)), **members}
        return self.with_header({k: v for k, v in header.items() if v is not None})

    def with_payload(self, part: object) -> str:
        """Any other payload, validly signed."""
        return signed(self.key, self.header, encoded(part))

    def with_claim(self, name: str, value: object) -> str:
        return self.with_payload({**self.claims, name: value})

    def without_claim(self, name: str) -> str:
        return self.with_payload({k: v for k, v in self.claims.items() if k != name})

    def with_hmac_by_public_key(self) -> str:
        header = encoded({"alg": "HS256", "kid": self.key.kid, "typ": "at+jwt"})
        message = f"{header}.{self.payload}"
        mac = hmac.digest(self.key.public.to_pem(), message.encode(), hashlib.sha256)
        return f"{message}.{encoded(mac)}"

    def with_der_signature(self) -> str:
        raw = decoded(self.signature)
        numbers = (int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        return f"{self.header}.{self.payload}.{encoded(encode_dss_signature(*numbers))}"


def with_spare_bits(original: Original) -> str:
    claims = json.dumps(original.claims).encode()
    payload = encoded(claims + b" " * (1 + -len(claims) % 3))  # a last character with spare bits
    return signed(original.key, original.header, spare_bits_altered(payload))


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 24 else f"{text[:4]}… ({len(text)} characters)"


Forge = Callable[[Original], str]

WRONG_VALUES: dict[str, list[object]] = {
    "iss": ["http://avalon.example", "HTTP://LOCALHOST:8000", "", ["http://localhost:8000"]],
    "aud": [1, "", "a b", "caf\u00e9", "a" * 201, ["ml-api"], ["ml-api", "avalon"]],
    "sub": [1, True, ["1"], {"id": "1"}],
    "jti": [1, ["1"]],
    "iat": [True, "1795435200", 1795435200.0, -1, 10**30, -(10**400)],
    "exp": [True, "9999999999", 9999999999.0, [9999999999], 0, -1, 10**12, 10**30, 10**400],
    "epoch": [False, "0", 0.0, -1, 2**31, 10**30],
    "preferred_username": [1, ["lancelot"]],
    "auth_time": [True, "1795435200", 1795435200.0],
    "scope": [1, ["admin"], {"admin": True}],
    "sid": [1, False, ["0123456789abcdef"]],
    "nbf": [None, True, "1795435200", 1795435200.0, [0], 10**30],
    "amr": ["pwd", {"pwd": True}, [1], ["pwd", None], [["pwd"]]],
    "client_id": [1, "", "a b", "a" * 65, ["0123456789abcdef"]],
    "kind": [1, "", "admin", ["service"]],
    "limited": [0, 1, "true", [True]],
    "grp": ["7.12", [7], ["7"], ["07.1"], ["7.12\n"], ["7.12"] * 21],
    "networks": ["10.0.0.0/8", [10], ["10.0.0.1"], ["any/0"], ["10.0.0.0/8"] * 11],
}
MAY_BE_NULL = ("sid",)
REQUIRED = (
    *("iss", "aud", "sub", "jti", "iat", "exp", "epoch"),
    *("preferred_username", "auth_time"),
)

FORGERIES: dict[str, Forge] = {
    # Keys and algorithms
    "no algorithm, no signature": lambda o: f"{encoded({'alg': 'none'})}.{o.payload}.",
    "no algorithm, the old signature": lambda o: (
        f"{encoded({'alg': 'none'})}.{o.payload}.{o.signature}"
    ),
    "alg none, signed": lambda o: o.with_members(alg="none"),
    "alg NonE, signed": lambda o: o.with_members(alg="NonE"),
    "alg HS256, the public key as its secret": Original.with_hmac_by_public_key,
    "alg HS256, signed": lambda o: o.with_members(alg="HS256"),
    "alg RS256, signed": lambda o: o.with_members(alg="RS256"),
    "alg ES384, signed": lambda o: o.with_members(alg="ES384"),
    "alg missing": lambda o: o.with_members(alg=None),
    "alg a list": lambda o: o.with_members(alg=["ES256"]),
    "kid unknown": lambda o: o.with_members(kid="avalon"),
    "kid missing": lambda o: o.with_members(kid=None),
    "kid a path": lambda o: o.with_members(kid="../../dev/null"),
    "kid a number": lambda o: o.with_members(kid=1),
    "typ JWT": lambda o: o.with_members(typ="JWT"),
    "typ missing": lambda o: o.with_members(typ=None),
    "another key": lambda o: signed(STRANGER, o.header, o.payload),
    "another key, shown in the header": lambda o: signed(
        STRANGER,
        encoded({**json.loads(decoded(o.header)), "jwk": STRANGER.public.to_dict()}),
        o.payload,
    ),
    # The header's other members
    "jku": lambda o: o.with_members(jku="https://avalon.example/jwks.json"),
    "jwk": lambda o: o.with_members(jwk=o.key.public.to_dict()),
    "x5u": lambda o: o.with_members(x5u="https://avalon.example/certificate.pem"),
    "x5c": lambda o: o.with_members(x5c=["MIIB"]),
    "crit": lambda o: o.with_members(crit=["exp"]),
    "b64": lambda o: o.with_members(b64=False, crit=["b64"]),
    "zip": lambda o: o.with_members(zip="DEF"),
    "a header with spaces": lambda o: o.with_header(decoded(o.header).replace(b":", b": ")),
    "a header in another order": lambda o: o.with_header(
        dict(reversed(json.loads(decoded(o.header)).items()))
    ),
    "a header with a member twice": lambda o: o.with_header(
        decoded(o.header)[:-1] + b',"alg":"none"}'
    ),
    "a header of endless depth": lambda o: o.with_header(b'{"a":' * 400 + b"1" + b"}" * 400),
    "a header that is a list": lambda o: o.with_header(["ES256"]),
    "a header that is no JSON": lambda o: o.with_header(b"\xff\xfe"),
    # Segments and their spelling
    "nothing": lambda _: "",
    "a word": lambda _: "excalibur",
    "two dots": lambda _: "..",
    "three dots": lambda _: "...",
    "one segment": lambda o: o.header,
    "two segments": lambda o: f"{o.header}.{o.payload}",
    "an empty signature": lambda o: f"{o.header}.{o.payload}.",
    "an empty payload": lambda o: signed(o.key, o.header, ""),
    "four segments": lambda o: f"{o.token}.{o.signature}",
    "an empty fourth segment": lambda o: f"{o.token}.",
    "five segments": lambda o: f"{o.token}.{o.payload}.{o.signature}",
    "padding": lambda o: f"{o.token}==",
    "padding inside, signed": lambda o: signed(o.key, o.header, f"{o.payload}=="),
    "a space before": lambda o: f" {o.token}",
    "a space after": lambda o: f"{o.token} ",
    "a line break after": lambda o: f"{o.token}\n",
    "a space inside": lambda o: f"{o.token[:-9]} {o.token[-9:]}",
    "a line break inside": lambda o: f"{o.token[:-9]}\n{o.token[-9:]}",
    "a NUL inside": lambda o: f"{o.token[:-9]}\0{o.token[-9:]}",
    "a letter beyond ASCII": lambda o: f"{o.header}.é{o.payload}.{o.signature}",
    "half a surrogate pair": lambda o: f"{o.header}.\ud800{o.payload}.{o.signature}",
    "the alphabet of plain base64": lambda o: f"{o.token[:-2]}+/",
    "the alphabet of plain base64 in the header": lambda o: f"+/{o.token[2:]}",
    "the alphabet of plain base64, signed": lambda o: signed(
        o.key, o.header, f"{o.payload[:-4]}ab+/"
    ),
    "spare bits in the signature": lambda o: (
        f"{o.header}.{o.payload}.{spare_bits_altered(o.signature)}"
    ),
    "spare bits in the payload, signed": with_spare_bits,
    "a payload in upper case": lambda o: f"{o.header}.{o.payload.upper()}.{o.signature}",
    "5,000 more characters": lambda o: o.token + "A" * 5_000,
    "5,000 more characters, signed": lambda o: o.with_claim("grail", "A" * 5_000),
    # Signatures
    "a signature of zeros": lambda o: f"{o.header}.{o.payload}.{encoded(bytes(64))}",
    "a signature cut short": lambda o: o.token[:-4],
    "a signature in DER": Original.with_der_signature,
    "another token's signature": lambda o: (
        f"{o.header}.{encoded({**o.claims, 'jti': 'avalon'})}.{o.signature}"
    ),
    # Payloads, validly signed
    "a payload that is a list": lambda o: o.with_payload([o.claims]),
    "a payload that is a text": lambda o: o.with_payload("sub"),
    "a payload that is null": lambda o: o.with_payload(None),
    "a payload that is empty": lambda o: o.with_payload({}),
    "a payload that is no JSON": lambda o: o.with_payload(b"{"),
    "a payload that is no UTF-8": lambda o: o.with_payload(b'{"sub":"\xff"}'),
    "a payload of endless depth": lambda o: o.with_payload(b"[" * 2_500),
    "a payload with two subjects": lambda o: o.with_payload(
        b'{"sub":"2",' + decoded(o.payload)[1:]
    ),
    "a payload with two expiries": lambda o: o.with_payload(b'{"exp":1,' + decoded(o.payload)[1:]),
    "a payload twice over": lambda o: o.with_payload(decoded(o.payload) * 2),
    "exp is now": lambda o: o.with_claim("exp", o.claims["iat"]),
    "exp is not a number": lambda o: o.with_claim("exp", float("nan")),
    "exp is infinite": lambda o: o.with_claim("exp", float("inf")),
}

# Validly signed, with one claim that is wrong
WRONG_CLAIMS: dict[str, Forge] = {
    **{f"no {name}": partial(Original.without_claim, name=name) for name in REQUIRED},
    **{
        f"{name} is {shown(value)}": partial(Original.with_claim, name=name, value=value)
        for name, values in WRONG_VALUES.items()
        for value in [*values, *([] if name in MAY_BE_NULL else [None])]
    },
}

# Well-formed tokens of users that do not exist: only the database can tell.
NO_IDS = [
    *("", "abc", "0", "-1", "+1", " 1", "1 ", "01", "1.0", "1e0", "1\n", "1\0", "\u0661"),
    *(
        "4711",
        "9" * 18,
        str(2**63 - 1),
        str(2**63),
        "1_0",
        "9" * 19,
        "9" * 20,
        "9" * 2_500,
        "1 OR 1=1",
    ),
]
TOKENS_WITHOUT_USER: dict[str, Forge] = {
    **{
        f"sub is {shown(sub)}": partial(Original.with_claim, name="sub", value=sub)
        for sub in NO_IDS
    },
    "an epoch to come": partial(Original.with_claim, name="epoch", value=1),
    "the last epoch": partial(Original.with_claim, name="epoch", value=2**31 - 1),
}

# An attacker with the key can put anything into a claim, as APIs with the HS256 secret can.
reproducible = examples(deadline=None, database=None, derandomize=True)
few = examples(reproducible, max_examples=40)  # each with every claim


def test_the_token_that_the_attacks_start_from_is_valid() -> None:
    original = Original(TOKEN, KEY)
    for token in (TOKEN, original.with_members(), original.with_payload(original.claims)):
        assert TOKENS.decode(token, NOW).subject == "1"


ISSUED = int(NOW.timestamp())
LIFETIME = 3600  # seconds
# The last claims that are accepted, and the first ones that are refused.
LIMITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "expires a second after now": ({"exp": ISSUED + 1}, {"exp": ISSUED}),
    "is valid for its lifetime": ({"exp": ISSUED + LIFETIME}, {"exp": ISSUED + LIFETIME + 1}),
    "is issued by a clock that is a minute ahead": (
        {"iat": ISSUED + 60, "exp": ISSUED + 60 + LIFETIME},
        {"iat": ISSUED + 61, "exp": ISSUED + 61 + LIFETIME},
    ),
    "has the first epoch": ({"epoch": 0}, {"epoch": -1}),
    "has the last epoch": ({"epoch": 2**31 - 1}, {"epoch": 2**31}),
    "has the longest jti": ({"jti": "a" * 64}, {"jti": "a" * 65}),
    "has the longest sid": ({"sid": "a" * 64}, {"sid": "a" * 65}),
    "is below the surrogates": ({"preferred_username": "\ud7ff"}, {"preferred_username": "\ud800"}),
    "is above the surrogates": ({"preferred_username": "\ue000"}, {"preferred_username": "\udfff"}),
}


@pytest.mark.parametrize(("accepted", "refused"), LIMITS.values(), ids=LIMITS)
def test_a_claim_is_accepted_up_to_its_limit(
    accepted: dict[str, Any], refused: dict[str, Any]
) -> None:
    original = Original(TOKEN, KEY)
    TOKENS.decode(original.with_payload({**original.claims, **accepted}), NOW)
    with pytest.raises(InvalidTokenError):
        TOKENS.decode(original.with_payload({**original.claims, **refused}), NOW)


def test_a_token_has_at_most_4096_characters() -> None:
    original = Original(TOKEN, KEY)
    longest = original.with_claim("filler", "a" * 2_555)
    too_long = original.with_claim("filler", "a" * 2_556)
    assert (len(longest), len(too_long)) == (4_096, 4_097)
    TOKENS.decode(longest, NOW)
    with pytest.raises(InvalidTokenError):
        TOKENS.decode(too_long, NOW)


def test_a_segment_may_end_in_any_character() -> None:
    """Of the tokens that an RSA key signs, one in 64 ends in each."""
    for last in ALPHABET:
        assert encoded(jwt._decode(f"AAA{last}")) == f"AAA{last}"


def test_a_token_can_be_revoked_by_its_user_id_key_session_and_groups() -> None:
    values = ["sub:1:7", f"jti:{Original(TOKEN, KEY).claims['jti']}", "kid:camelot"]
    session, groups = ["sid:0123456789abcdef.1"], ["grp:7.12", "grp:8.0"]
    assert TOKENS.decode(TOKEN, NOW).revocation_keys() == [*values, *session, *groups]
    without_session = Original(TOKEN, KEY).without_claim("sid")
    assert TOKENS.decode(without_session, NOW).revocation_keys() == [*values, *groups]
    without_groups = Original(TOKEN, KEY).without_claim("grp")
    assert TOKENS.decode(without_groups, NOW).revocation_keys() == [*values, *session]


def test_a_token_does_not_outlive_the_credential_that_it_was_issued_for() -> None:
    lifetimes = {timedelta(minutes=59): 3_540, timedelta(minutes=61): 3_600, None: 3_600}
    for left, seconds in lifetimes.items():
        request = replace(GRANT, not_after=NOW + left if left else None)
        claims = TOKENS.decode(TOKENS.encode(request, NOW), NOW)
        assert claims.expires_at - claims.issued_at == seconds


def test_the_claims_say_which_api_the_token_is_for() -> None:
    for audience in ("https://models.example", "a" * 200, None):
        request = replace(GRANT, audience=audience)
        assert TOKENS.decode(TOKENS.encode(request, NOW), NOW).audience == (audience or "ml-api")
    settings = Settings.model_construct(audience="the round table")  # AUDIENCE can be any text
    tokens = AccessTokens(settings, Keyring([KEY]))
    assert tokens.decode(tokens.encode(replace(GRANT, audience=None), NOW), NOW)


ALL_FORGERIES = {**FORGERIES, **WRONG_CLAIMS}


@pytest.mark.parametrize("forge", ALL_FORGERIES.values(), ids=ALL_FORGERIES)
def test_a_forged_token_is_invalid(forge: Forge) -> None:
    with pytest.raises(InvalidTokenError):
        TOKENS.decode(forge(Original(TOKEN, KEY)), NOW)


@on_sqlite
async def test_every_forged_token_is_a_401_over_http(client: AsyncClient, app: FastAPI) -> None:
    """The reader refuses all wrong claims with the same error. A few stand for the others."""
    some = dict(itertools.islice(WRONG_CLAIMS.items(), 0, None, 10))
    assert await answered_otherwise(client, app, {**FORGERIES, **some}) == {}


async def test_every_token_without_a_user_is_a_401_over_http(
    client: AsyncClient, app: FastAPI
) -> None:
    assert await answered_otherwise(client, app, TOKENS_WITHOUT_USER) == {}


async def answered_otherwise(
    client: AsyncClient, app: FastAPI, forgeries: dict[str, Forge]
) -> dict[str, list[str]]:
    """The responses to forgeries that do not get the plain 401."""
    await register(client, LANCELOT)
    original = Original(await log_in(client, LANCELOT), app.state.tokens.keyring.keys[-1])
    return {
        rule: [response.text for response in responses]
        for rule, forge in forgeries.items()
        if not all(map(is_plain_401, responses := await presented(client, forge(original))))
    }


async def presented(client: AsyncClient, forged: str) -> list[Response]:
    """The answers to a token in the header and, where its spelling is odd, in the path, as far as
    each can carry it."""
    responses = []
    is_odd = not SPELLING.fullmatch(forged)
    if is_odd and forged.strip(".") and "/" not in forged:  # else it is another path
        path = quote(forged, safe="", errors="surrogatepass")
        responses.append(await client.get(f"/token_status/{path}"))
    if forged == forged.strip():  # space around it is the header's, not the token's
        value = b"Bearer " + forged.encode(errors="surrogatepass")
        responses.append(await client.get("/me", headers={b"Authorization": value}))
    return responses


SPELLING = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)  # that both can carry


def is_plain_401(response: Response) -> bool:
    return (
        response.status_code == 401
        and response.json() == {"message": "Invalid token", "error": "invalid_token"}
        and 'error="invalid_token"' in response.headers["www-authenticate"]
    )


@on_sqlite
async def test_a_token_of_a_megabyte_is_rejected(client: AsyncClient) -> None:
    token = f"{TOKEN}{'A' * 2**20}"
    with pytest.raises(InvalidTokenError):
        TOKENS.decode(token, NOW)
    assert_problem(await client.get("/me", headers=bearer(token)), 431, "headers_too_large")
    path = f"/token_status/{token[:60_000]}"  # the test's client refuses longer ones
    assert_problem(await client.get(path), 414, "uri_too_long")


@reproducible
@given(position=st.integers(0, len(TOKEN) - 1), character=st.sampled_from(ALPHABET + "."))
def test_no_character_can_be_another(position: int, character: str) -> None:
    assume(TOKEN[position] != character)
    with pytest.raises(InvalidTokenError):
        TOKENS.decode(TOKEN[:position] + character + TOKEN[position + 1 :], NOW)


@reproducible
@given(st.text() | st.text(ALPHABET + "."))
def test_no_text_behind_a_good_header_makes_the_reader_fail(rest: str) -> None:
    with pytest.raises(InvalidTokenError):
        TOKENS.decode(f"{Original(TOKEN, KEY).header}.{rest}", NOW)


CLAIMS = sorted([*Original(TOKEN, KEY).claims, "nbf"])


def test_the_token_that_is_attacked_has_every_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each claim that can be issued, and each one that is read."""
    for field in fields(GRANT):
        assert getattr(GRANT, field.name), f"{field.name} is left out"
    claims = NotedClaims(Original(TOKEN, KEY).claims)
    monkeypatch.setattr(jwt, "_parse", lambda _: claims)
    TOKENS.decode(TOKEN, NOW)
    assert {"iss", "exp", "sid", "amr"} < claims.asked_for <= set(CLAIMS)
    assert claims.asked_for - {*REQUIRED} <= {*WRONG_VALUES}
    assert set(REQUIRED) <= claims.asked_for


@few
@given(value=JSON_VALUES)
def test_no_value_of_a_claim_makes_the_reader_fail(value: object) -> None:
    original = Original(TOKEN, KEY)
    for name in CLAIMS:
        note(f"the claim {name}")
        with suppress(InvalidTokenError):
            assert_has_promised_types(TOKENS.decode(original.with_claim(name, value), NOW))


def assert_has_promised_types(claims: Claims) -> None:
    """And times that a calendar knows."""
    texts = (claims.subject, claims.username, claims.jti, claims.kid, claims.session or "")
    for text in (*texts, *claims.scopes, *claims.methods):
        assert type(text) is str
    for number in (
        claims.token_version,
        claims.authenticated_at,
        claims.issued_at,
        claims.expires_at,
    ):
        assert type(number) is int
    assert type(claims.scopes) is frozenset
    assert type(claims.methods) is tuple
    assert datetime.fromtimestamp(claims.issued_at, UTC) < datetime.max.replace(tzinfo=UTC)
    assert datetime.fromtimestamp(claims.expires_at, UTC) > NOW
    values = 3 + bool(claims.session) + len(claims.groups)
    assert len(claims.revocation_keys()) == values <= 24


# Of the right type, but in no token that the service issues.
ODD_TEXTS = ["", "\0", "\r\nX: y", "é", "\ud800", "\U0010ffff", "a" * 2_000]
ODD_NUMBERS = [-1, 0, 2**31, 2**63, 10**300]
ODD_VALUES: dict[str, list[Any]] = {
    **dict.fromkeys(("iss", "aud", "sub", "preferred_username", "client_id"), ODD_TEXTS),
    **dict.fromkeys(("jti", "scope", "sid"), ODD_TEXTS),
    **{key: [*ODD_TEXTS, 1, None] for key in ("kind", "limited")},
    **{key: [[], *([text] for text in ODD_TEXTS)] for key in ("amr", "grp", "networks")},
    **dict.fromkeys(("iat", "nbf", "exp", "auth_time", "epoch"), ODD_NUMBERS),
}


async def test_no_value_of_a_claim_makes_the_service_fail(
    client: AsyncClient, app: FastAPI, clock: Clock, subtests: pytest.Subtests
) -> None:
    """Claims that the reader accepts get as far as the database. All calls refuse the others alike,
    so that one call is enough for each of these."""
    await register(client, LANCELOT)
    original = Original(await log_in(client, LANCELOT), app.state.tokens.keyring.keys[-1])
    calls = itertools.cycle(CALLS)
    for name in CLAIMS:
        with subtests.test(name):
            for number, value in enumerate(ODD_VALUES[name]):
                claims = {**original.claims, "jti": f"{name}{number}", name: value}
                token = original.with_payload(claims)
                is_read = can_be_read(app.state.tokens, token, clock())
                for call in CALLS if is_read else (next(calls),):
                    assert_answers(await call(client, token), shown(value))


CALLS: tuple[Callable[[AsyncClient, str], Awaitable[Response]], ...] = (
    lambda client, token: client.get("/me", headers=bearer(token)),
    lambda client, token: client.get("/verify", headers=bearer(token)),
    lambda client, token: client.get(f"/token_status/{token}"),
    lambda client, token: client.post("/introspect", data={"token": token}, headers=bearer(token)),
    lambda client, token: client.post("/revoke", data={"token": token}),
)


def can_be_read(tokens: AccessTokens, token: str, now: datetime) -> bool:
    with suppress(InvalidTokenError):
        tokens.decode(token, now)
        return True
    return False


def assert_answers(answer: Response, message: str) -> None:
    assert answer.status_code in (200, 401), (message, answer.url.path[:12])
    sent = b"".join(value for _, value in answer.headers.raw)
    assert sent.decode("ascii").isprintable(), message
