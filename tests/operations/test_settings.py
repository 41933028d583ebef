"""Settings: what is refused names the setting to mend, and never repeats a secret."""

import re

import pytest
from pydantic import ValidationError

from app.database.engine import Database
from app.settings import HOME, Settings
from tests.support.database_templates import Postgres
from tests.support.settings import make_settings

SECRET = "excalibur"
PRODUCTION = {
    "environment": "production",
    "secret_key": "the lady of the lake keeps it safe",
    "issuer": "https://camelot.example",
}


def refusal(**values: object) -> str:
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate(values)
    return str(refused.value)


def test_without_any_setting_it_is_fit_for_development() -> None:
    settings = Settings()
    assert settings.environment == "development"
    assert settings.database_url == f"sqlite+aiosqlite:///{HOME / 'hourpass.db'}"
    assert settings.token_minutes == 60
    assert not settings.strict_passwords


def test_production_starts_with_suitable_settings() -> None:
    assert Settings.model_validate(PRODUCTION).strict_passwords


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        pytest.param({"secret_key": None}, "SECRET_KEY", id="keys in the clear"),
        pytest.param({"issuer": "http://camelot.example"}, "ISSUER", id="an issuer without TLS"),
        pytest.param({"password_policy": "basic"}, "PASSWORD_POLICY", id="weak passwords"),
        pytest.param({"argon2_memory_kib": 19455}, "ARGON2_MEMORY_KIB", id="cheap hashing"),
        pytest.param({"argon2_passes": 1}, "ARGON2_PASSES", id="hasty hashing"),
    ],
)
def test_production_refuses(change: dict[str, object], setting: str) -> None:
    assert setting in refusal(**{**PRODUCTION, **change})


def test_production_names_all_unsuitable_settings_at_once() -> None:
    text = refusal(environment="production", password_policy="basic", argon2_passes=1)
    for setting in ("SECRET_KEY", "ISSUER", "PASSWORD_POLICY", "ARGON2_PASSES"):
        assert setting in text


@pytest.mark.parametrize(
    ("values", "setting"),
    [
        pytest.param({"secret_key": SECRET}, "secret_key", id="a short SECRET_KEY"),
        pytest.param({"hs256_secret": SECRET}, "hs256_secret", id="a short HS256_SECRET"),
        pytest.param({"hs256_secret": SECRET * 200}, "hs256_secret", id="an endless HS256_SECRET"),
        pytest.param({"signing_algorithm": "HS256"}, "HS256_SECRET", id="HS256 without a secret"),
        pytest.param(
            {"first_admin_password": SECRET}, "FIRST_ADMIN_USERNAME", id="a password without a name"
        ),
        pytest.param(
            {"first_admin_username": "arthur"},
            "FIRST_ADMIN_PASSWORD",
            id="a name without a password",
        ),
        pytest.param(
            {"database_url": f"mysql://arthur:{SECRET}@camelot.example/court"},
            "database_url",
            id="another database",
        ),
        pytest.param({"database_url": SECRET}, "database_url", id="a database that is no URL"),
        pytest.param({"database_url": "sqlite://"}, "database_url", id="SQLite without a file"),
        pytest.param({"database_url": "sqlite:///"}, "database_url", id="SQLite of an empty name"),
        pytest.param({"database_url": "sqlite:///:memory:"}, "database_url", id="SQLite in memory"),
        pytest.param(
            {"database_url": "sqlite:///file:x?mode=memory&uri=true"},
            "database_url",
            id="SQLite in memory by URI",
        ),
        pytest.param({"token_minutes": 0}, "token_minutes", id="tokens that never hold"),
        pytest.param({"port": 65536}, "port", id="a port that is none"),
        pytest.param({"signing_algorithm": "none"}, "signing_algorithm", id="no algorithm"),
        pytest.param({"audience": ""}, "audience", id="tokens for nobody"),
    ],
)
def test_an_invalid_value_is_rejected_in_every_environment(
    values: dict[str, object], setting: str
) -> None:
    text = refusal(**values)
    assert setting in text
    assert SECRET not in text


SMTP = {"mail_from": "no-reply@camelot.example"}
UNENCODED = {
    "#": ("smtp://arthur:excali#bur@mail.example", "have the # in its user or password as %23"),
    "digits and #": ("smtp://arthur:4711#bur@mail.example", "as %23"),
    "/": ("smtp://arthur:excali/bur@mail.example", "as %2F"),
    "?": ("smtp://arthur:excali?bur@mail.example", "as %3F"),
    "[": ("smtp://arthur:excali[bur@mail.example", "as %5B"),
    "]": ("smtp://arthur:excali]bur@mail.example", "as %5D"),
    "a sign that normalizes to others": (
        "smtp://arthur:excali\u2100bur@mail.example",
        "percent-encoded",
    ),
    "no host": ("smtp://arthur:excalibur", "percent-encoded"),
    "no host, and #": ("smtp://arthur:4711#bur", "must end with the host"),
    "no host, and ?": ("smtp://arthur:4711?bur", "must end with the host"),
    "a port that is none": ("smtp://arthur:excalibur@mail.example:bur", "port between 1 and 65535"),
    "port 65536": ("smtp://arthur:excalibur@mail.example:65536", "port between 1 and 65535"),
}


@pytest.mark.parametrize(("url", "advice"), UNENCODED.values(), ids=UNENCODED)
def test_an_smtp_url_that_is_not_encoded_is_explained_without_its_password(
    url: str, advice: str
) -> None:
    text = refusal(smtp_url=url, **SMTP)
    assert advice in text
    assert not {"excali", "bur", "4711"} & set(re.findall(r"\w+", text))


def test_what_is_encoded_is_accepted() -> None:
    url = "smtp://arthur%40camelot:e%23x%2Fc%3Fa%5Bl%5D:i@b%25ur@mail.example:2525"
    assert make_settings("sqlite:///x.db", smtp_url=url, **SMTP).smtp_url


def test_a_refusal_to_production_repeats_no_secret() -> None:
    text = refusal(
        **PRODUCTION
        | {
            "issuer": "http://camelot.example",
            "first_admin_username": "arthur",
            "first_admin_password": SECRET,
            "database_url": f"postgresql://arthur:{SECRET}@camelot.example/court",
        }
    )
    assert SECRET not in text
    assert PRODUCTION["secret_key"] not in text


def test_settings_come_from_the_environment_and_empty_variables_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN_MINUTES", "5")
    monkeypatch.setenv("SECRET_KEY", "")
    settings = Settings()
    assert (settings.token_minutes, settings.secret_key) == (5, None)
    monkeypatch.setenv("SECRET_KEY", SECRET)
    assert SECRET not in refusal()


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgres://arthur:x@camelot/court", "postgresql+asyncpg://arthur:x@camelot/court"),
        ("postgresql://arthur:x@camelot/court", "postgresql+asyncpg://arthur:x@camelot/court"),
        ("postgresql+asyncpg://camelot/court", "postgresql+asyncpg://camelot/court"),
        ("sqlite:////var/lib/hourpass.db", "sqlite+aiosqlite:////var/lib/hourpass.db"),
        ("sqlite:///court.db", f"sqlite+aiosqlite:///{HOME}/court.db"),
        ("sqlite:///data/court.db", f"sqlite+aiosqlite:///{HOME}/data/court.db"),
        ("sqlite+aiosqlite:///court.db", f"sqlite+aiosqlite:///{HOME}/court.db"),
    ],
    ids=[
        *("as providers write it", "as PostgreSQL writes it", "with the driver"),
        *("an absolute file", "a relative file", "a file in a folder", "a file and the driver"),
    ],
)
def test_a_database_url_gets_its_driver_and_a_relative_file_its_directory(
    given: str, used: str
) -> None:
    assert make_settings(given).database_url == used


@pytest.mark.parametrize("mode", ["disable", "prefer"])
async def test_a_database_url_of_a_hosting_provider_works(postgres: Postgres, mode: str) -> None:
    database = Database(make_settings(f"{postgres.url('postgres')}&sslmode={mode}"))
    async with database.engine.connect():
        pass
    await database.close()
