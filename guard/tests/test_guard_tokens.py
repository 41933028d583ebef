"""A guard accepts only tokens that the service would write and has signed."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import settings as examples
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from hourpass import Guard, InvalidTokenError, ServiceUnavailableError
from hourpass.guard import token_verifier as tokens_module
from hourpass.guard import verification_state
from hourpass.guard.bearer import bearer_token
from hourpass.guard.token_verifier import (
    CLOCK_SKEW_SECONDS,
    MAX_TOKEN_BYTES,
    TokenVerifier,
    UnknownKeyError,
)
from hourpass.testing import Issuer, SigningKey
from tests.support.claims import JSON_VALUES, NotedClaims
from tests.support.guards import refusal_of

pytest_plugins = ["hourpass.testing"]

HOUR = 3600


@pytest.fixture
def issuer(hourpass_issuer: Issuer) -> Issuer:
    return hourpass_issuer


@pytest.fixture
def guard(issuer: Issuer) -> Guard:
    guard = Guard("https://hourpass.example")
    issuer.attach(guard)
    return guard


def segment(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def with_header(issuer: Issuer, **changes: object) -> str:
    """A token whose header really is signed with the issuer's key."""
    key = issuer._key
    header = {"alg": "ES256", "kid": key.kid, "typ": "at+jwt", **changes}
    payload = issuer.token().split(".")[1]
    signed = f"{segment({k: v for k, v in header.items() if v is not None})}.{payload}"
    algorithm = ECAlgorithm(ECAlgorithm.SHA256)
    signature = algorithm.sign(signed.encode(), key._private)
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def signed_with_the_public_key(issuer: Issuer) -> str:
    """The old confusion: the public key taken for an HMAC secret."""
    pem = issuer._key._private.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    header = {"alg": "HS256", "kid": issuer._key.kid, "typ": "at+jwt"}
    signed = f"{segment(header)}.{issuer.token().split('.')[1]}"
    mac = hmac.digest(pem, signed.encode(), hashlib.sha256)
    return f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def unsigned(issuer: Issuer) -> str:
    header = {"alg": "none", "kid": issuer._key.kid, "typ": "at+jwt"}
    return f"{segment(header)}.{issuer.token().split('.')[1]}."


def test_a_token_with_the_headers_of_the_service_is_valid(guard: Guard, issuer: Issuer) -> None:
    assert refusal_of(guard, with_header(issuer)) is None
    assert refusal_of(guard, issuer.token(user_id=2**63 - 1)) is None


FORGERIES: dict[str, Callable[[Issuer], str]] = {
    "another key": lambda issuer: issuer.forged_token(),
    "another issuer and key": lambda issuer: issuer.foreign_token(),
    "alg none": unsigned,
    "alg none with a signature": lambda issuer: unsigned(issuer) + "AA",
    "HS256 with the public key": signed_with_the_public_key,
    "no kid": lambda issuer: with_header(issuer, kid=None),
    "kid no string": lambda issuer: with_header(issuer, kid=["a"]),
    "kid too long": lambda issuer: with_header(issuer, kid="x" * 201),
    "typ of an ID token": lambda issuer: with_header(issuer, typ="JWT"),
    "alg not the key's": lambda issuer: with_header(issuer, alg="RS256"),
    "no alg": lambda issuer: with_header(issuer, alg=None),
    "crit": lambda issuer: with_header(issuer, crit=["b64"], b64=False),
    "key in the header": lambda issuer: with_header(issuer, jwk={}),
    "iss": lambda issuer: issuer.token(iss="https://elsewhere.example"),
    "aud": lambda issuer: issuer.token(aud="another-api"),
    "aud a list": lambda issuer: issuer.token(aud=["ml-api"]),
    "sub no string": lambda issuer: issuer.token(sub=1),
    "sub no user": lambda issuer: issuer.token(sub="-1"),
    "sub without end": lambda issuer: issuer.token(sub="9" * 400),
    "sub past 64 bits": lambda issuer: issuer.token(sub=str(2**63)),
    "epoch no number": lambda issuer: issuer.token(epoch="0"),
    "epoch a truth value": lambda issuer: issuer.token(epoch=True),
    "no jti": lambda issuer: issuer.token(jti=None),
    "scope a list": lambda issuer: issuer.token(scope=["admin"]),
    "sid no string": lambda issuer: issuer.token(sid=1),
    "no username": lambda issuer: issuer.token(preferred_username=None),
    "expired": lambda issuer: issuer.expired_token(),
    "exp a fraction": lambda issuer: issuer.token(exp=time.time() + 60.5),
    "exp never": lambda issuer: issuer.token(exp=10**300),
    "lives for decades": lambda issuer: issuer.token(iat=0),
    "not yet valid": lambda issuer: issuer.token(iat=int(time.time()) + CLOCK_SKEW_SECONDS + 5),
    "too long": lambda issuer: issuer.token(note="x" * MAX_TOKEN_BYTES),
    "padded": lambda issuer: issuer.token() + "=",
    "plain base64": lambda issuer: issuer.token()[:-2] + "+/",
    "plain base64 in the header": lambda issuer: "+/" + issuer.token()[2:],
    "a line's end": lambda issuer: issuer.token() + "\n",
    "four parts": lambda issuer: issuer.token() + ".x",
    "a space": lambda issuer: " " + issuer.token(),
    "empty": lambda _: "",
    "not ASCII": lambda _: "ä.ö.ü",
    "nested without end": lambda _: f"{segment('[' * 2000)}.e30.e30",
    "header no object": lambda _: f"{segment('[]')}.e30.e30",
    "header no JSON": lambda _: f"{segment('{{')}.e30.e30",
}


def test_any_other_token_is_rejected_and_not_cached(
    guard: Guard, issuer: Issuer, subtests: pytest.Subtests
) -> None:
    guard.check(issuer.token())
    for name, forge in FORGERIES.items():
        with subtests.test(name):
            token = forge(issuer)
            assert refusal_of(guard, token) is InvalidTokenError
            assert refusal_of(guard, token) is InvalidTokenError
            assert token not in remembered(guard)


def remembered(guard: Guard) -> dict[str, Any]:
    assert guard._feed.state
    return guard._feed.state._remembered


def test_no_character_of_a_token_can_be_another(guard: Guard, issuer: Issuer) -> None:
    token = issuer.token()
    guard.check(token)
    for place, character in enumerate(token):
        other = "A" if character != "A" else "B"
        altered = token[:place] + other + token[place + 1 :]
        # Within the header it may name another key, of which nobody can say yet.
        may_be = {
            InvalidTokenError,
            *([ServiceUnavailableError] if place < token.index(".") else []),
        }
        assert refusal_of(guard, altered) in may_be, place


def test_unused_bits_of_the_encoding_make_another_token(guard: Guard, issuer: Issuer) -> None:
    """The signature has 64 bytes, so the last four bits of its last character have no meaning."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    token = issuer.token()
    last = alphabet.index(token[-1])
    assert last % 16 == 0
    assert refusal_of(guard, token) is None
    for unused in range(1, 16):
        assert refusal_of(guard, token[:-1] + alphabet[last + unused]) is InvalidTokenError


def test_a_kid_has_200_characters_at_most(guard: Guard, issuer: Issuer) -> None:
    assert refusal_of(guard, with_header(issuer, kid="x" * 200)) is ServiceUnavailableError
    assert refusal_of(guard, with_header(issuer, kid="x" * 201)) is InvalidTokenError


ISSUER = Issuer()
OPTIONAL: dict[str, Any] = {
    "scope": "predict",
    "sid": "Ab3dEf9h.1",
    "amr": ["pwd", "otp"],
    "client_id": "Ab3dEf9h",
    "kind": "service",
    "limited": True,
    "grp": ["7.12"],
    "networks": ["192.0.2.0/24"],
}


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


FULL = claims_of(ISSUER.token(**OPTIONAL))
CLAIMS = sorted([*FULL, "nbf"])
NOW: int = FULL["iat"]


def signed(claims: dict[str, Any]) -> str:
    """A token with any claims, signed with the issuer's key."""
    header = {"kid": ISSUER._key.kid, "typ": "at+jwt"}
    payload = json.dumps(claims).encode()
    return jwt.PyJWS().encode(payload, ISSUER._key._private, "ES256", header)


VERIFIER = TokenVerifier(ISSUER.name, ISSUER.audience, [ISSUER._key.public_jwk()])


def test_the_token_that_is_attacked_has_every_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    token = signed(FULL)
    claims = NotedClaims(FULL)
    parse = tokens_module._parse
    payload = token.split(".")[1]
    monkeypatch.setattr(
        tokens_module, "_parse", lambda part: claims if part == payload else parse(part)
    )
    VERIFIER.verify(token, NOW)
    assert {"sub", "exp", "sid", "grp", "networks"} < claims.asked_for <= set(CLAIMS)


@examples(deadline=None, database=None, derandomize=True, max_examples=20)
@given(value=JSON_VALUES)
def test_any_value_of_a_claim_is_valid_or_refused(value: object) -> None:
    for name in CLAIMS:
        assert_that_it_is_valid_or_refused({**FULL, name: value})


def assert_that_it_is_valid_or_refused(claims: dict[str, Any]) -> None:
    try:
        verified = VERIFIER.verify(signed(claims), NOW)
    except InvalidTokenError:
        return
    user = verified.user
    assert (type(user.id), type(user.username), type(user.scopes)) == (int, str, frozenset)
    assert user.expires_at.timestamp() == verified.expires_at > NOW
    for text in (*user.scopes, *verified.revocable, user.kind, user.key_id or ""):
        assert type(text) is str


def test_a_token_names_its_api_key_groups_and_networks() -> None:
    verified = VERIFIER.verify(signed(FULL), NOW)
    assert (verified.user.kind, verified.user.key_id) == ("service", "Ab3dEf9h")
    assert {"sid:Ab3dEf9h.1", "grp:7.12"} < set(verified.revocable)
    assert verified.networks == (ip_network("192.0.2.0/24"),)
    plain = VERIFIER.verify(ISSUER.token(), time.time())
    assert (plain.user.kind, plain.user.key_id, plain.networks) == ("person", None, ())


def test_a_duplicate_claim_is_refused_though_it_is_signed(guard: Guard, issuer: Issuer) -> None:
    payload = base64.urlsafe_b64decode(issuer.token().split(".")[1] + "==").decode()
    header = {"alg": "ES256", "kid": issuer._key.kid, "typ": "at+jwt"}
    doubled = payload.replace('"sub":"1"', '"sub":"2","sub":"1"')
    assert doubled != payload
    for text, refusal in ((payload, None), (doubled, InvalidTokenError)):
        signed = f"{segment(header)}.{segment(text)}"
        signature = ECAlgorithm(ECAlgorithm.SHA256).sign(signed.encode(), issuer._key._private)
        token = f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
        assert refusal_of(guard, token) is refusal


def test_a_cached_token_expires_after_its_hour(guard: Guard, issuer: Issuer) -> None:
    token = issuer.token()
    guard.check(token)
    issuer.advance_time(timedelta(seconds=HOUR - 5))
    assert refusal_of(guard, token) is None
    issuer.clock.advance(timedelta(seconds=5))
    assert refusal_of(guard, token) is InvalidTokenError
    assert remembered(guard) == {}


def test_a_cached_token_is_not_verified_again(
    guard: Guard, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issuer.token()
    user = guard.check(token)
    monkeypatch.delattr(TokenVerifier, "verify")
    assert guard.check(token) is user


def test_the_clock_of_a_guard_may_be_a_little_behind(guard: Guard, issuer: Issuer) -> None:
    assert refusal_of(guard, issuer.token(iat=int(time.time()) + CLOCK_SKEW_SECONDS - 5)) is None


@pytest.mark.parametrize(
    ("claims", "now", "is_valid"),
    [
        pytest.param({}, NOW + 3_599.5, True, id="in its last second"),
        pytest.param({}, NOW + 3_600, False, id="when it expires"),
        pytest.param({"iat": NOW + 60}, NOW, True, id="issued 60 seconds ahead"),
        pytest.param({"iat": NOW + 61}, NOW, False, id="issued 61 seconds ahead"),
        pytest.param({"nbf": NOW + 60}, NOW, True, id="valid in 60 seconds"),
        pytest.param({"nbf": NOW + 61}, NOW, False, id="valid in 61 seconds"),
        pytest.param({"nbf": NOW + 61}, NOW + 1, True, id="valid since a second ago"),
        pytest.param({"nbf": None}, NOW, False, id="nbf null"),
        pytest.param({"nbf": NOW - 0.5}, NOW, False, id="nbf a fraction"),
        pytest.param({"nbf": str(NOW)}, NOW, False, id="nbf a text"),
        pytest.param({"exp": NOW + 86_400}, NOW, True, id="valid for a day"),
        pytest.param({"exp": NOW + 86_401}, NOW, False, id="valid for longer than a day"),
    ],
)
def test_the_time_limits_of_a_token_are_exact(
    claims: dict[str, Any], now: float, is_valid: bool
) -> None:
    token = signed({**FULL, **claims})
    if is_valid:
        assert VERIFIER.verify(token, now).user.username == "lancelot"
    else:
        with pytest.raises(InvalidTokenError):
            VERIFIER.verify(token, now)


def test_a_token_has_4096_bytes_at_most() -> None:
    shortest = len(signed({**FULL, "note": ""}))
    size = (4_096 - shortest) * 3 // 4  # Base64 makes four characters of three bytes
    tokens = [signed({**FULL, "note": "x" * (size + more)}) for more in range(-2, 3)]
    by_length = {len(token): token for token in tokens}
    assert VERIFIER.verify(by_length[4_096], NOW).user.username == "lancelot"
    with pytest.raises(InvalidTokenError):
        VERIFIER.verify(by_length[4_097], NOW)


def test_the_error_for_an_unknown_key_does_not_quote_the_token() -> None:
    without_keys = TokenVerifier(ISSUER.name, ISSUER.audience, [])
    with pytest.raises(UnknownKeyError, match=r"^Invalid token$"):
        without_keys.verify(signed(FULL), NOW)


@pytest.mark.parametrize(
    "value", [b"Bearer a.b.c", b"bearer   a.b.c", b"a.b.c", b" Bearer a.b.c ", b"\ta.b.c\t"]
)
def test_whitespace_around_a_token_in_the_header_does_not_count(value: bytes) -> None:
    """RFC 9110, 5.5. Not every server removes it."""
    assert bearer_token([(b"host", b"x"), (b"authorization", value)]) == "a.b.c"


@pytest.mark.parametrize("value", ["jti:a", "sid:b", "sub:7:3", "kid"])
def test_each_of_the_four_values_of_a_token_can_be_revoked(
    guard: Guard, issuer: Issuer, value: str
) -> None:
    token = issuer.token(jti="a", sid="b", user_id=7, epoch=3)
    guard.check(token)
    issuer.publish("sub:7:2")
    assert refusal_of(guard, token) is None
    issuer.publish(f"kid:{issuer._key.kid}" if value == "kid" else value)
    assert refusal_of(guard, token) is InvalidTokenError
    assert refusal_of(guard, issuer.token(jti="a", sid="b", user_id=7, epoch=3)) is (
        InvalidTokenError
    )


def test_the_issuer_can_be_pinned(issuer: Issuer) -> None:
    guard = Guard("https://hourpass.example", issuer="https://camelot.example")
    issuer.attach(guard)
    assert refusal_of(guard, issuer.token()) is None
    assert refusal_of(guard, issuer.token(iss="https://hourpass.example")) is InvalidTokenError


def test_the_cache_is_limited_and_forged_tokens_evict_nothing(
    guard: Guard, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification_state, "MAX_REMEMBERED", 5)
    tokens = [issuer.token() for _ in range(8)]
    for token in tokens:
        guard.check(token)
    assert list(remembered(guard)) == tokens[3:]
    for token in tokens:
        refusal_of(guard, token[:-8] + "AAAAAAAA")
    assert list(remembered(guard)) == tokens[3:]


def test_keys_of_another_kind_in_the_set_are_passed_over() -> None:
    key = SigningKey()
    odd: list[dict[str, Any]] = [
        {"kty": "OKP", "kid": "a", "alg": "EdDSA", "crv": "Ed25519", "x": "AA"},
        {"kty": "EC", "kid": "b", "alg": "ES256", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "oct", "kid": "c", "alg": "HS256", "k": "AA"},
        {"kid": 7},
        {**key.public_jwk(), "kid": None},
        {**key.public_jwk(), "kid": ["a"]},
        {**key.public_jwk(), "y": "A" * 43},  # no point of the curve
    ]
    assert not TokenVerifier("iss", "aud", odd).has_keys
    assert TokenVerifier("iss", "aud", [*odd, key.public_jwk()]).has_keys


def test_rs256_tokens_are_verified_as_well() -> None:
    private = rsa.generate_private_key(65537, 2048)
    public: dict[str, Any] = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    tokens = TokenVerifier("x", "ml-api", [{**public, "kid": "r", "use": "sig", "alg": "RS256"}])
    claims = jwt.decode(Issuer("x").token(), options={"verify_signature": False})
    header = {"kid": "r", "typ": "at+jwt"}
    token = jwt.encode(claims, private, "RS256", header)
    assert tokens.verify(token, time.time()).user.username == "lancelot"
    stranger = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(InvalidTokenError):
        tokens.verify(jwt.encode(claims, stranger, "ES256", header), time.time())
