"""The export files of other systems, and which of their users can log in."""

from pathlib import Path
from typing import NamedTuple

from tests.imports.exports.make import PASSWORD

EXPORTS = Path(__file__).parent / "exports"


class Export(NamedTuple):
    """`users` log in, `disabled` ones once they are enabled. `costly` hashes differ from those of
    the other users in their costs only, and are not computed. `left_out` has the reasons."""

    source: str
    file: str
    users: tuple[str, ...]
    disabled: tuple[str, ...] = ()
    costly: tuple[str, ...] = ()
    without_password: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    password: str = PASSWORD


def mails(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}@camelot.example" for name in names)


SAVED_FIREBASE = ("--secrets", str(EXPORTS / "firebase-hash-config.txt"))
EXPORTED = {
    "Keycloak": Export(
        source="keycloak",
        file="keycloak-realm.json",
        users=("argon2", "sha512", "sha256", "totp"),
        disabled=("sha1",),
        without_password=("federated",),
        left_out=("sha256-otp: second_factor", "service-account-ml: service"),
    ),
    "Auth0": Export(
        source="auth0",
        file="auth0-users.ndjson",
        users=("gawain",),
        disabled=mails("kay"),
        without_password=mails("tristan"),
        options=("--hashes", str(EXPORTS / "auth0-hashes.ndjson")),
    ),
    "Auth0's hashes alone": Export(
        source="auth0", file="auth0-hashes.ndjson", users=mails("gawain", "kay")
    ),
    "Django": Export(
        source="django",
        file="django.json",
        users=("scrypt", "pbkdf2", "argon2", "bcrypt_sha256"),
        disabled=("sha1",),
        costly=(
            "django6",
            *("default-pbkdf2_sha256", "default-pbkdf2_sha1", "default-argon2"),
            *("default-bcrypt_sha256", "default-scrypt"),
        ),
        without_password=("unusable",),
        left_out=("bcrypt: second_factor", "md5: hash"),
    ),
    "Firebase": Export(
        source="firebase",
        file="firebase.json",
        users=mails("bors"),
        without_password=mails("dinadan"),
        left_out=(": username", "palamedes@camelot.example: second_factor"),
        options=SAVED_FIREBASE,
        password="user1password",
    ),
    "FastAPI Users": Export(
        source="fastapi-users",
        file="fastapi-users.csv",
        users=mails("argon2", "bcrypt"),
        disabled=mails("inactive"),
        costly=mails("default-argon2", "default-bcrypt"),
    ),
    "Flask": Export(
        source="csv",
        file="flask.csv",
        users=("scrypt", "pbkdf2"),
        costly=("default-scrypt", "default-pbkdf2"),
        options=("--map", "login=username", "--map", "pw=password_hash"),
    ),
    "the book": Export(
        source="book",
        file="book.csv",
        users=("eligijus",),
        disabled=("disabled",),
        left_out=("stranger: password",),
        options=("--secrets", str(EXPORTS / "book-config.yml")),
    ),
}
