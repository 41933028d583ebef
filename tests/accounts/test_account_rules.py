"""The exact limits of usernames, addresses, passwords and scopes. No database."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr, TypeAdapter, ValidationError

from app.security.passwords import Password
from app.users import models
from app.users.schemas import Email, EmailChange, Scopes, Username

REFUSED: dict[str, tuple[Any, Any]] = {
    "a name of 65 once normalised": (Username, "\N{LATIN SMALL LIGATURE FI}" * 32 + "x"),
    "a name of 64 only once normalised": (Username, "e\N{COMBINING ACUTE ACCENT}" + "l" * 63),
    "a name with a paragraph separator": (Username, "lance\u2029lot"),
    "a password with the last surrogate": (Password, "exca\udfff!"),
    "a new address that is none": (EmailChange, "lancelot"),
    "scopes of 4,001 characters in total": (Scopes, [*["p" * 99] * 39, "q" * 101]),
    "no scope": (Scopes, [""]),
    "two scopes in one": (Scopes, ["predict train"]),
    "one of the service's own": (Scopes, ["predict", "admin"]),
    "the other one": (Scopes, ["predict", "offline_access"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_value_just_beyond_a_limit_is_rejected(case: str) -> None:
    kind, value = REFUSED[case]
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(value)


ACCEPTED: dict[str, tuple[Any, Any]] = {
    "a name of 64 once normalised": (Username, "\N{LATIN SMALL LIGATURE FI}" * 32),
    "a password beyond the surrogates": (Password, SecretStr("exca\ue000!")),
    "a new address": (EmailChange, "lancelot@camelot.example"),
    "no new address": (EmailChange, ""),
    "scopes of 4,000 characters": (Scopes, [*(f"{n:0>99}" for n in range(39)), "q" * 100]),
    "scopes with names": (Scopes, ["a:*", "a:b/c", "a:b/c-*"]),
    "a scope of 128 characters": (Scopes, ["p" * 128]),
    "no scopes": (Scopes, []),
}


REASONS = {
    "*": "A * stands at the end of a name, as in predict:fraud-*",
    "pre*dict:x": "A * stands at the end of a name, as in predict:fraud-*",
    "predict:**": "A * stands at the end of a name, as in predict:fraud-*",
    "predict:": "A name follows the colon, as in predict:fraud-v3",
    "predict:a//b": "A name does not begin or end with /, and has no //",
    "p" * 300: "A scope has at most 128 characters",
    "admin": "admin and offline_access cannot be granted like this",
}


@pytest.mark.parametrize("scope", REASONS)
def test_a_scope_is_rejected_with_the_reason(scope: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(Scopes).validate_python(["predict", scope])
    assert [error["msg"] for error in refused.value.errors()] == [REASONS[scope]]


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_value_at_a_limit_is_accepted(case: str) -> None:
    kind, value = ACCEPTED[case]
    assert TypeAdapter(kind).validate_python(value) == value


def test_scopes_are_stored_once_each_and_in_order() -> None:
    assert TypeAdapter(Scopes).validate_python(["train", "predict", "train"]) == [
        "predict",
        "train",
    ]


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        (Username, {"minLength": 1, "maxLength": 64}),
        (Email, {"maxLength": 254}),
        (EmailChange, {"maxLength": 254}),
        (Password, {"minLength": 1, "maxLength": 128}),
        (Scopes, {"maxItems": 250}),
    ],
    ids=["username", "address", "new address", "password", "scopes"],
)
def test_the_schemas_state_the_limits(kind: Any, limits: dict[str, int]) -> None:
    schema = TypeAdapter(kind).json_schema()
    assert {name: schema.get(name) for name in limits} == limits


def test_a_token_version_is_any_number_of_30_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.users.models.secrets.randbelow", lambda limit: limit - 1)
    assert models.new_token_version() == models.MAX_TOKEN_VERSION == 1_073_741_823


def test_an_account_without_a_password_is_stored_as_in_earlier_versions() -> None:
    assert models.UNUSABLE_PASSWORD == "!"


def test_a_new_address_is_not_verified_and_is_compared_without_regard_to_case() -> None:
    user = models.User(email="Lancelot@CAMELOT.example")
    assert user.email_folded == "lancelot@camelot.example"
    user.email_verified_at = datetime(2026, 11, 23, tzinfo=UTC)
    assert user.email_verified
    user.email = "Stra\u00dfe@camelot.example"
    assert user.email_folded == "strasse@camelot.example"
    assert not user.email_verified
    user.email = None
    assert user.email_folded is None


def test_tokens_of_a_user_can_have_the_stored_scopes_and_of_an_administrator_admin() -> None:
    user = models.User(scopes="predict train", is_admin=False)
    assert user.granted_scopes() == {"predict", "train"}
    user.is_admin = True
    assert user.granted_scopes() == {"admin", "predict", "train"}
