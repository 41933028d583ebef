"""Users of other systems log in here with the same passwords, and the login replaces the hash.

What differs between the databases is how users are inserted, which test_rules.py tries on both.
"""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import select

from app.credentials.second_factors.models import SecondFactor
from app.operations.imports.values import read_parameters
from app.security.encryption import ENCRYPTED_PREFIX
from app.users.models import UNUSABLE_PASSWORD
from tests.imports.conftest import Import, users_of
from tests.imports.exported import EXPORTED, EXPORTS, SAVED_FIREBASE, Export
from tests.imports.exports.make import PASSWORD, TOTP_KEY
from tests.support.authenticator import Authenticator
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import ARTHUR, assert_problem, bearer, claims_of

OURS = "$argon2id$v=19$m=8,t=1,p=1$"


@on_sqlite
@pytest.mark.parametrize("export", EXPORTED.values(), ids=EXPORTED)
async def test_users_log_in_with_the_password_of_the_other_system(
    client: AsyncClient, app: FastAPI, import_users: Import, clock: Clock, export: Export
) -> None:
    arguments = (EXPORTS / export.file, "--from", export.source, *export.options)
    result = await import_users(*arguments, "--json")
    *left_out, summary = map(json_of, result.stdout.splitlines())
    told = [f"{user['username']}: {user['reason']}" for user in left_out]
    assert sorted(told) == sorted(export.left_out)
    assert result.exit_code == (1 if export.left_out else 0)
    with_password = export.users + export.disabled + export.costly
    assert summary["imported"] == len(with_password + export.without_password)
    imported = await users_of(app)
    assert {name for name, user in imported.items() if not user.is_enabled} == {*export.disabled}
    for name in with_password:
        assert imported[name].password_hash.startswith(OURS) == (export.source == "book")
    for name in export.without_password:
        assert imported[name].password_hash == UNUSABLE_PASSWORD
    wrong = await log_in(client, export.users[0], f"{export.password}!")
    assert_problem(wrong, 401, "invalid_grant")
    for name in export.users + export.disabled:
        if name in export.disabled:
            await enable(client, imported[name].id)
        otp = {"otp": authenticator(clock).code()} if name in ("totp", "scrypt") else {}
        answer = await log_in(client, name, export.password, **otp)
        assert answer.status_code == 200, answer.text
        assert (await users_of(app))[name].password_hash.startswith(OURS)


async def log_in(client: AsyncClient, name: str, password: str, **more: str) -> Any:
    return await client.post("/token", json={"username": name, "password": password, **more})


async def enable(client: AsyncClient, user_id: int) -> None:
    token = (await log_in(client, ARTHUR["username"], ARTHUR["password"])).json()["token"]
    path = f"/toggle-user-permission/{user_id}/1"
    assert (await client.put(path, headers=bearer(token))).status_code == 200


def authenticator(clock: Clock) -> Authenticator:
    secret = base64.b32encode(TOTP_KEY).decode()
    return Authenticator(f"otpauth://totp/camelot?secret={secret}", clock)


def json_of(line: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(line)
    return parsed


@on_sqlite
async def test_roles_groups_and_permissions_become_the_scopes_that_the_command_names(
    app: FastAPI, import_users: Import, subtests: pytest.Subtests
) -> None:
    scopes = ("trainer=train", "/research/vision=predict:vision-*", "ml-api/predict=predict")
    django = ("trainers=train", "is_superuser=admin", "auth.view_user=introspect")
    firebase = (*SAVED_FIREBASE, "--drop-second-factors")
    for source, file, options, named, expected in (
        (
            "keycloak",
            "keycloak-realm.json",
            (),
            scopes,
            {"argon2": "predict predict:vision-* train"},
        ),
        ("auth0", "auth0-users.ndjson", (), ("trainer=train",), {"gawain": "train"}),
        (
            "django",
            "django-natural.jsonl",
            (),
            django,
            {"scrypt": "", "bcrypt_sha256": "", "pbkdf2": "admin"},
        ),
        (
            "firebase",
            "firebase.json",
            firebase,
            ("admin=admin", "role:trainer=train"),
            {"bors@camelot.example": "admin train"},
        ),
        (
            "fastapi-users",
            "fastapi-users.csv",
            (),
            ("is_superuser=admin",),
            {"argon2@camelot.example": "admin", "bcrypt@camelot.example": ""},
        ),
    ):
        with subtests.test(source):
            chosen = [part for name in named for part in ("--scope", name)]
            await import_users(EXPORTS / file, "--from", source, *options, *chosen)
            users = await users_of(app)
            for name, granted in expected.items():
                assert " ".join(sorted(users[name].granted_scopes())) == granted


@on_sqlite
async def test_a_dump_with_natural_keys_has_the_same_users(import_users: Import) -> None:
    dumps = ("django.json", "django-natural.jsonl")
    first, second = [
        await import_users(EXPORTS / dump, "--from", "django", "--dry-run", "--json")
        for dump in dumps
    ]
    assert json_of(first.stdout.splitlines()[-1])["second_factors"] == 1
    # Permissions have no names in the first one.
    with_permission = first.stdout.replace('"trainers": 1}', '"trainers": 1, "auth.view_user": 1}')
    assert summary(with_permission) == summary(second.stdout)


def summary(output: str) -> dict[str, Any]:
    """Without measured times."""
    found = json_of(output.splitlines()[-1])
    found["hashes"] = {name: kind["users"] for name, kind in found["hashes"].items()}
    return found


@on_sqlite
async def test_roles_without_a_scope_have_no_effect_and_are_listed(
    app: FastAPI, import_users: Import
) -> None:
    result = await import_users(EXPORTS / "django.json", "--from", "django")
    assert {user.scopes for user in (await users_of(app)).values()} == {""}
    assert not any(user.is_admin for user in (await users_of(app)).values())
    roles = ["auth.view_user", "is_staff", "is_superuser", "trainers"]
    assert [role for role in roles if f"  {role} (1 user)" in result.stdout] == roles[1:]


async def test_a_user_keeps_the_address_the_date_and_the_second_factor(
    client: AsyncClient,
    app: FastAPI,
    import_users: Import,
    clock: Clock,
    subtests: pytest.Subtests,
) -> None:
    await import_users(EXPORTS / "keycloak-realm.json", "--from", "keycloak")
    users = await users_of(app)
    with subtests.test("the address and whether it is verified"):
        assert users["argon2"].email == users["argon2"].email_folded == "argon2@camelot.example"
        assert users["argon2"].email_verified
        assert not users["sha512"].email_verified
    with subtests.test("the date"):
        assert users["argon2"].created_at == datetime.fromtimestamp(1757317498.123, UTC)
    with subtests.test("the second factor is needed"):
        phone = authenticator(clock)
        assert_problem(await log_in(client, "totp", PASSWORD), 401, "mfa_required")
        wrong = await log_in(client, "totp", PASSWORD, otp=phone.wrong_code())
        assert_problem(wrong, 401, "invalid_grant")
        answer = await log_in(client, "totp", PASSWORD, otp=phone.code())
        assert claims_of(answer.json()["token"])["amr"] == ["pwd", "otp", "mfa"]


@on_sqlite
async def test_a_secret_is_stored_encrypted_if_there_is_a_key(
    app: FastAPI, import_users: Import
) -> None:
    key = {"SECRET_KEY": "0123456789abcdef0123456789abcdef"}
    await import_users(EXPORTS / "keycloak-realm.json", "--from", "keycloak", **key)
    async with app.state.database.session() as session:
        (secret,) = await session.scalars(select(SecondFactor.secret))
        assert secret.startswith(ENCRYPTED_PREFIX)


@on_sqlite
async def test_users_can_be_imported_without_an_unsupported_second_factor_or_password(
    client: AsyncClient, app: FastAPI, import_users: Import
) -> None:
    drop = ("--drop-passwords", "--drop-second-factors")
    result = await import_users(EXPORTS / "django.json", "--from", "django", *drop)
    assert result.exit_code == 0
    users = await users_of(app)
    assert users["md5"].password_hash == UNUSABLE_PASSWORD
    assert (await log_in(client, "bcrypt", PASSWORD)).status_code == 200


@on_sqlite
async def test_a_password_of_the_book_that_no_login_accepts_is_not_hashed(
    app: FastAPI, import_users: Import, tmp_path: Path
) -> None:
    config = EXPORTS / "book-config.yml"
    parameters = read_parameters(config, ("key", "salt"))
    long, empty = (
        Fernet(parameters["key"]).encrypt(f"{password}{parameters['salt']}".encode()).decode()
        for password in ("x" * 129, "")
    )
    file = tmp_path / "book.csv"
    file.write_text(f"username,password\nkay,{long}\ngawain,{empty}\n")
    arguments = (file, "--from", "book", "--secrets", config)
    result = await import_users(*arguments, "--json")
    assert json_of(result.stdout.splitlines()[-1])["left_out"] == {"password": 2}
    result = await import_users(*arguments, "--drop-passwords")
    assert result.exit_code == 0
    hashes = [user.password_hash for user in (await users_of(app)).values()]
    assert hashes == [UNUSABLE_PASSWORD, UNUSABLE_PASSWORD]
