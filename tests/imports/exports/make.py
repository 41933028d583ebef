"""Makes the exports in this folder, with the software of the other systems where pip installs it.

Not part of the tests. In an environment of its own:

    pip install "django==5.2.*" django-otp argon2-cffi bcrypt fastapi-users[sqlalchemy] aiosqlite \
        werkzeug cryptography
    python tests/imports/exports/make.py

Keycloak's, Auth0's and Firebase's files are made by hand in their documented formats.

Logins in the tests compute most of the hashes. These have low costs. Those of the users whose names
begin with `default-` have the costs that the other system chooses.
"""

import asyncio
import base64
import csv
import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PASSWORD = "knight of the cart"
TOTP_KEY = b"twenty bytes of code"


def write_json(name: str, content: Any) -> None:
    (FOLDER / name).write_text(json.dumps(content, indent=1) + "\n")


def write_lines(name: str, records: list[Any]) -> None:
    (FOLDER / name).write_text("".join(json.dumps(record) + "\n" for record in records))


def encode(value: bytes) -> str:
    return base64.b64encode(value).decode()


def django() -> None:
    from django.conf import settings

    hashers = "django.contrib.auth.hashers"
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django_otp",
            "django_otp.plugins.otp_totp",
        ],
        PASSWORD_HASHERS=[
            f"{hashers}.PBKDF2PasswordHasher",
            f"{hashers}.PBKDF2SHA1PasswordHasher",
            f"{hashers}.Argon2PasswordHasher",
            f"{hashers}.BCryptSHA256PasswordHasher",
            f"{hashers}.BCryptPasswordHasher",
            f"{hashers}.ScryptPasswordHasher",
            f"{hashers}.MD5PasswordHasher",
        ],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
    )
    import django

    django.setup()
    from django.contrib.auth.hashers import (
        Argon2PasswordHasher,
        BCryptSHA256PasswordHasher,
        PBKDF2PasswordHasher,
        ScryptPasswordHasher,
        make_password,
    )
    from django.contrib.auth.models import Group, Permission, User
    from django.core.management import call_command
    from django_otp.plugins.otp_totp.models import TOTPDevice

    call_command("migrate", verbosity=0)
    group = Group.objects.create(name="trainers")
    hasher = PBKDF2PasswordHasher()
    defaults = {
        f"default-{algorithm}": make_password(PASSWORD, hasher=algorithm)
        for algorithm in ("pbkdf2_sha256", "pbkdf2_sha1", "argon2", "bcrypt_sha256", "scrypt")
    }
    PBKDF2PasswordHasher.iterations = 1_000
    Argon2PasswordHasher.memory_cost = 1_024
    BCryptSHA256PasswordHasher.rounds = 4
    ScryptPasswordHasher.work_factor = 2**7
    hashes = {
        **defaults,
        "pbkdf2": make_password(PASSWORD),
        # What Django 6.0 makes: the same hasher with more rounds.
        "django6": hasher.encode(PASSWORD, hasher.salt(), 1_200_000),
        "sha1": make_password(PASSWORD, hasher="pbkdf2_sha1"),
        "argon2": make_password(PASSWORD, hasher="argon2"),
        "bcrypt": make_password(PASSWORD, hasher="bcrypt"),
        "bcrypt_sha256": make_password(PASSWORD, hasher="bcrypt_sha256"),
        "scrypt": make_password(PASSWORD, hasher="scrypt"),
        "md5": make_password(PASSWORD, hasher="md5"),
        "unusable": make_password(None),
    }
    for name, password in hashes.items():
        User.objects.create(username=name, email=f"{name}@camelot.example", password=password)
    User.objects.filter(username="pbkdf2").update(is_superuser=True, is_staff=True)
    User.objects.filter(username="sha1").update(is_active=False)
    User.objects.get(username="argon2").groups.add(group)
    User.objects.get(username="argon2").user_permissions.add(
        Permission.objects.get(codename="view_user")
    )
    for name, digits in (("scrypt", 6), ("bcrypt", 8)):
        TOTPDevice.objects.create(
            user=User.objects.get(username=name),
            name="phone",
            key=TOTP_KEY.hex(),
            digits=digits,
            confirmed=True,
        )
    models = ("auth.Group", "auth.User", "otp_totp.TOTPDevice")
    call_command("dumpdata", *models, indent=1, output=str(FOLDER / "django.json"))
    call_command(
        "dumpdata",
        *reversed(models),
        format="jsonl",
        use_natural_foreign_keys=True,
        output=str(FOLDER / "django-natural.jsonl"),
    )


async def fastapi_users() -> None:
    from fastapi_users.db import SQLAlchemyBaseUserTableUUID, SQLAlchemyUserDatabase
    from fastapi_users.password import PasswordHelper
    from pwdlib import PasswordHash
    from pwdlib.hashers.argon2 import Argon2Hasher
    from pwdlib.hashers.bcrypt import BcryptHasher
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
    from sqlalchemy.orm import DeclarativeBase

    class Base(DeclarativeBase):
        pass

    class User(SQLAlchemyBaseUserTableUUID, Base):  # type: ignore[misc] # not installed beside us
        pass

    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with async_sessionmaker(engine)() as session:
        users = SQLAlchemyUserDatabase(session, User)
        helper = PasswordHelper(PasswordHash((Argon2Hasher(memory_cost=1_024),)))
        old = PasswordHelper(PasswordHash((BcryptHasher(rounds=4),)))
        default_old = PasswordHelper(PasswordHash((BcryptHasher(),)))
        for name, made, values in (
            ("argon2", helper.hash(PASSWORD), {"is_verified": True, "is_superuser": True}),
            ("bcrypt", old.hash(PASSWORD), {}),
            ("inactive", helper.hash(PASSWORD), {"is_active": False}),
            ("default-argon2", PasswordHelper().hash(PASSWORD), {}),
            ("default-bcrypt", default_old.hash(PASSWORD), {}),
        ):
            email = f"{name}@camelot.example"
            await users.create(
                {"id": uuid.uuid4(), "email": email, "hashed_password": made} | values
            )
        rows = (await session.execute(text('SELECT * FROM "user"'))).mappings().all()
    await engine.dispose()
    with (FOLDER / "fastapi-users.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def flask() -> None:
    from werkzeug.security import generate_password_hash

    with (FOLDER / "flask.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "login", "pw", "active"])
        for name, method in (
            ("scrypt", "scrypt:512:8:1"),
            ("pbkdf2", "pbkdf2:sha256:1000"),
            ("default-scrypt", "scrypt"),
            ("default-pbkdf2", "pbkdf2"),
        ):
            writer.writerow([1, name, generate_password_hash(PASSWORD, method), "t"])


def book() -> None:
    from cryptography.fernet import Fernet

    key, salt = Fernet.generate_key(), "avalon"
    config = f"secrets:\n  key: {key.decode()}\n  salt: {salt} # for all\njwt:\n  secret: x\n"
    (FOLDER / "book-config.yml").write_text(config)
    columns = ("id", "username", "password", "email", "created_datetime", "updated_datetime")
    with (FOLDER / "book.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "enabled"])
        for number, (name, used, enabled) in enumerate(
            (
                ("eligijus", Fernet(key), "t"),
                ("disabled", Fernet(key), "f"),
                ("stranger", Fernet(Fernet.generate_key()), "t"),
            )
        ):
            encrypted = used.encrypt(f"{PASSWORD}{salt}".encode()).decode()
            moment = "2022-01-02 14:04:26.751085"
            row = [number, name, encrypted, f"{name}@testmail.example", moment, moment]
            writer.writerow([*row, enabled])


def keycloak_password(algorithm: str, rounds: int, length: int) -> dict[str, Any]:
    salt = os.urandom(16)
    parameters: dict[str, list[str]] = {}
    if algorithm == "argon2":
        from argon2.low_level import Type, hash_secret_raw

        value = hash_secret_raw(PASSWORD.encode(), salt, rounds, 7168, 1, length, Type.ID)
        parameters = {
            "hashLength": [str(length)],
            "memory": ["7168"],
            "type": ["id"],
            "version": ["1.3"],
            "parallelism": ["1"],
        }
    else:
        digest = algorithm.removeprefix("pbkdf2").removeprefix("-") or "sha1"
        value = hashlib.pbkdf2_hmac(digest, PASSWORD.encode(), salt, rounds, length)
    secret = {"value": encode(value), "salt": encode(salt), "additionalParameters": {}}
    data = {
        "hashIterations": rounds,
        "algorithm": algorithm,
        "additionalParameters": parameters,
    }
    return {
        "id": str(uuid.uuid4()),
        "type": "password",
        "createdDate": 1757317498232,
        "secretData": json.dumps(secret),
        "credentialData": json.dumps(data),
    }


def keycloak_otp(**changed: Any) -> dict[str, Any]:
    data = {
        "subType": "totp",
        "digits": 6,
        "counter": 0,
        "period": 30,
        "algorithm": "HmacSHA1",
        **changed,
    }
    return {
        "id": str(uuid.uuid4()),
        "type": "otp",
        "userLabel": "phone",
        "createdDate": 1757317498232,
        "secretData": json.dumps({"value": TOTP_KEY.decode()}),
        "credentialData": json.dumps(data),
    }


def keycloak_user(name: str, *credentials: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "username": name,
        "firstName": name.capitalize(),
        "email": f"{name}@camelot.example",
        "emailVerified": True,
        "createdTimestamp": 1757317498123,
        "enabled": True,
        "totp": len(credentials) > 1,
        "credentials": list(credentials),
        "disableableCredentialTypes": [],
        "requiredActions": [],
        "realmRoles": ["default-roles-camelot"],
        "notBefore": 0,
        "groups": [],
        **changed,
    }


def keycloak() -> None:
    argon2 = keycloak_password("argon2", 5, 32)
    sha512 = keycloak_password("pbkdf2-sha512", 210_000, 64)
    users = [
        keycloak_user(
            "argon2",
            argon2,
            realmRoles=["default-roles-camelot", "trainer"],
            groups=["/research/vision"],
            clientRoles={"ml-api": ["predict"]},
        ),
        keycloak_user("sha512", sha512, emailVerified=False),
        keycloak_user("sha256", keycloak_password("pbkdf2-sha256", 27_500, 64)),  # before 24
        keycloak_user("sha1", keycloak_password("pbkdf2", 20_000, 64), enabled=False),
        keycloak_user("totp", keycloak_password("argon2", 5, 32), keycloak_otp()),
        keycloak_user("sha256-otp", argon2, keycloak_otp(algorithm="HmacSHA256")),
        keycloak_user("federated", federationLink="ldap"),
        keycloak_user(
            "service-account-ml", serviceAccountClientId="ml", email=None, emailVerified=False
        ),
    ]
    realm = {
        "id": "camelot",
        "realm": "camelot",
        "enabled": True,
        "roles": {"realm": [{"name": "trainer", "composite": False}], "client": {}},
        "groups": [{"name": "research", "path": "/research", "subGroups": []}],
        "users": users,
        "clients": [{"clientId": "ml-api", "protocolMappers": [{"config": {"a": "b"}}]}],
    }
    write_json("keycloak-realm.json", realm)


def auth0() -> None:
    import bcrypt

    made = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    ids = {"gawain": "60425dc43519d90068f82973", "kay": "60425dc43519d90068f82974"}
    emails = {name: f"{name}@camelot.example" for name in ids}
    write_lines(
        "auth0-hashes.ndjson",
        [
            {
                "_id": {"$oid": ids["gawain"]},
                "email_verified": True,
                "email": emails["gawain"],
                "passwordHash": made,
                "password_set_date": {"$date": "2021-03-05T16:32:20.650Z"},
                "tenant": "camelot",
                "connection": "Username-Password-Authentication",
                "_tmp_is_unique": True,
            },
            {
                "_id": {"$oid": ids["kay"]},
                "passwordHash": made,
                "tenant": "camelot",
                "connection": "Username-Password-Authentication",
                "identifiers": [{"type": "email", "value": emails["kay"], "verified": False}],
                "alt_id": "seneschal",
            },
        ],
    )
    common = {"created_at": "2021-03-05T16:32:20.650Z", "email_verified": True}
    write_lines(
        "auth0-users.ndjson",
        [
            {
                "user_id": f"auth0|{ids['gawain']}",
                "email": emails["gawain"],
                "username": "gawain",
                "app_metadata": {"roles": ["trainer"], "plan": "gold"},
                **common,
            },
            {"user_id": "auth0|seneschal", "email": emails["kay"], "blocked": True, **common},
            {"user_id": "google-oauth2|1", "email": "tristan@camelot.example", **common},
        ],
    )


def firebase() -> None:
    """With the test vector that Firebase documents: the password is user1password."""
    user = {
        "localId": "6wfNVPXUPMZnD8KaLbWKbUKtcqX2",
        "email": "bors@camelot.example",
        "emailVerified": True,
        "passwordHash": (
            "lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ=="
        ),
        "salt": "42xEC+ixf3L2lw==",
        "lastSignedInAt": "1757317498232",
        "createdAt": "1757317498123",
        "disabled": False,
        "customAttributes": '{"admin":true,"role":"trainer"}',
        "providerUserInfo": [],
    }
    others = [
        {"localId": "b", "email": "dinadan@camelot.example", "createdAt": "1757317498123"},
        {"localId": "c", "phoneNumber": "+15555550100", "createdAt": "1757317498123"},
        {
            **user,
            "localId": "d",
            "email": "palamedes@camelot.example",
            "mfaInfo": [{"mfaEnrollmentId": "e", "displayName": "phone", "totpInfo": {}}],
        },
    ]
    write_json("firebase.json", {"users": [user, *others]})
    (FOLDER / "firebase-hash-config.txt").write_text(
        """hash_config {
  algorithm: SCRYPT,
  base64_signer_key: \
jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA==,
  base64_salt_separator: Bw==,
  rounds: 8,
  mem_cost: 14,
}
"""
    )


if __name__ == "__main__":
    django()
    asyncio.run(fastapi_users())
    flask()
    book()
    keycloak()
    auth0()
    firebase()
