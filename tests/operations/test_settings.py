"""Settings: what is refused names the setting to mend, and never repeats a secret."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.configuration.sources import find_origin
from app.configuration.types import home
from app.database.engine import Database
from app.settings import InvalidSettingsError, Settings, load_settings
from tests.support.database_templates import Postgres
from tests.support.settings import make_settings

SECRET = "excalibur"
PRODUCTION = {
    "environment": "production",
    "secret_key": "9f2c61d7a04be8355c1d90b7e6f8a24310c5d2e7b96f4a18",
    "issuer": "https://camelot.example",
}


def refusal(**values: object) -> str:
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate(values)
    return str(refused.value)


def test_without_any_setting_it_is_fit_for_development() -> None:
    settings = Settings()
    assert settings.environment == "development"
    assert settings.database_url == f"sqlite+aiosqlite:///{home() / 'hourpass.db'}"
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
        pytest.param({"secret_key": "4 knights of the round table sit"}, "SECRET_KEY", id="words"),
        pytest.param(
            {"secret_key": "knights-of-the-round-table-sat-by"}, "SECRET_KEY", id="letters"
        ),
        pytest.param({"secret_key": "abc123" * 8}, "SECRET_KEY", id="repeated characters"),
        pytest.param({"hs256_secret": "0123456" * 8}, "HS256_SECRET", id="a repeated HS256_SECRET"),
        pytest.param(
            {"secret_key": f"{PRODUCTION['secret_key']},{'0123456' * 8}"},
            "each value of SECRET_KEY",
            id="a repeated second SECRET_KEY",
        ),
        pytest.param(
            {"secret_key": f"the output of `openssl rand -hex 32`,{PRODUCTION['secret_key']}"},
            "each value of SECRET_KEY",
            id="a placeholder before the SECRET_KEY",
        ),
        pytest.param(
            {"first_admin_username": "arthur", "first_admin_password": "a password of your own"},
            "FIRST_ADMIN_PASSWORD",
            id="the password of the documentation",
        ),
        pytest.param({"key_announce_seconds": 299}, "KEY_ANNOUNCE_SECONDS", id="a short notice"),
    ],
)
def test_production_refuses(change: dict[str, object], setting: str) -> None:
    assert setting in refusal(**{**PRODUCTION, **change})


LONG = "x" * 32


@pytest.mark.parametrize(
    ("text", "values"),
    [
        pytest.param(LONG, [LONG], id="one"),
        pytest.param(f" {LONG} ", [f" {LONG} "], id="one with spaces around it"),
        pytest.param(f"{LONG},{LONG}y", [LONG, f"{LONG}y"], id="two"),
        pytest.param(f"{LONG} , {LONG}y ", [LONG, f"{LONG}y"], id="two with spaces"),
        pytest.param(f"{LONG},{LONG}", [LONG], id="the same twice"),
        pytest.param(f"{LONG},", [f"{LONG},"], id="a comma at the end"),
        pytest.param(f"a,{LONG}", [f"a,{LONG}"], id="one with a comma"),
        pytest.param(
            ",".join(f"{LONG}{number}" for number in range(5)),
            [f"{LONG}{number}" for number in range(5)],
            id="five",
        ),
    ],
)
def test_a_secret_may_have_several_values(text: str, values: list[str]) -> None:
    """A text with a comma was one value before, and stays one unless all its parts are long."""
    settings = make_settings("sqlite:///x.db", secret_key=text, hs256_secret=text)
    for found in (settings.secret_keys, settings.hs256_secrets):
        assert [value.get_secret_value() for value in found] == values


def test_a_secret_that_is_not_set_has_no_values() -> None:
    settings = make_settings("sqlite:///x.db")
    assert settings.secret_keys == settings.hs256_secrets == ()


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
        pytest.param({"secret_key": f"{SECRET},{SECRET}"}, "secret_key", id="short SECRET_KEYs"),
        pytest.param(
            {"secret_key": f"{LONG},{LONG * 33}{SECRET}"},
            "secret_key",
            id="an endless second value",
        ),
        pytest.param(
            {"secret_key": ",".join(f"{LONG}{SECRET}{number}" for number in range(6))},
            "at most 5 values",
            id="six values",
        ),
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


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"PORT": "eighty"}, "PORT must be a whole number from 0 to 65535"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL must be debug or error or info or warning"),
        ({"PASSWORD_POLICY": "none"}, "PASSWORD_POLICY must be basic or strict"),
        ({"AUDIENCE": "a" * 201}, "AUDIENCE must have from 1 to 200 characters"),
        ({"ISSUER": "camelot.example"}, "ISSUER must be a URL that begins with https:// (or"),
        ({"ISSUER": "ftp://camelot.example"}, "ISSUER must be a URL that begins with https://"),
        ({"ISSUER": f"https://arthur:{SECRET}@camelot.example"}, "ISSUER must be a URL without"),
        ({"ISSUER": "https://camelot.example?x=1"}, "ISSUER must be a URL without user, query"),
        ({"TRUSTED_PROXIES": "10.0.0.0/8, 10.1.2.3/8"}, "by its first address: 10.0.0.0/8"),
        ({"TRUSTED_PROXIES": "proxy"}, "TRUSTED_PROXIES must be IP addresses or networks such as"),
        ({"MAIL_TEMPLATES": "avalon"}, "MAIL_TEMPLATES must name a directory that exists"),
        (
            {"SESSION_IDLE_DAYS": "20", "SESSION_MAX_DAYS": "10"},
            "SESSION_IDLE_DAYS must be at most SESSION_MAX_DAYS",
        ),
        ({"PORT": "-1", "WORKERS": "x"}, "\nWORKERS must be a whole number from 1 to 256"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_with_what_to_write(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], line: str
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettingsError) as refused:
        load_settings()
    assert line in str(refused.value)
    for internal in (SECRET, "pydantic", "Input should", "Value error"):
        assert internal not in str(refused.value)


def test_words_are_understood_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LOG_LEVEL", "INFO"), ("SIGNING_ALGORITHM", "rs256")):
        monkeypatch.setenv(name, value)
    settings, warnings = load_settings()
    assert (settings.log_level, settings.signing_algorithm, warnings) == ("info", "RS256", [])


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file `.env` that load_settings() reads."""
    path = tmp_path / ".env"
    monkeypatch.setenv("ENV_FILE", str(path))
    return path


MISSPELT = "REGISTRATIONS=closed\nPOSTGRES_PASSWORD=x\nKNIGHTS=12\n"
FOUND = ["REGISTRATIONS, which is no setting. Did you mean REGISTRATION?", "KNIGHTS, which is no"]


def test_a_misspelt_name_is_a_warning_in_development(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write_text(MISSPELT)
    monkeypatch.setenv("DATABASE_URI", "sqlite:///x.db")
    monkeypatch.setenv("KNIGHTS", "12")  # the environment is that of other programs too
    _, warnings = load_settings()
    expected = [*FOUND, "DATABASE_URI, which is no setting. Did you mean DATABASE_URL?"]
    assert len(warnings) == len(expected)
    for warning, part in zip(warnings, expected, strict=True):
        assert part in warning


def test_a_misspelt_name_is_an_error_in_production(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    production = "".join(f"{name.upper()}={value}\n" for name, value in PRODUCTION.items())
    env_file.write_text(production)
    assert load_settings()[1] == []
    env_file.write_text(production + MISSPELT)
    with pytest.raises(InvalidSettingsError) as refused:
        load_settings()
    assert len(str(refused.value).splitlines()) == len(FOUND)
    env_file.unlink()
    for name, value in PRODUCTION.items():
        monkeypatch.setenv(name.upper(), value)
    with pytest.raises(InvalidSettingsError, match=r"ENV_FILE names .*, which does not exist"):
        load_settings()


def test_a_value_can_be_in_a_file(
    env_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{PRODUCTION['secret_key']}\n")
    env_file.write_text(f"SECRET_KEY_FILE={secret}\nAUDIENCE=court\n")
    monkeypatch.setenv("PORT", "8123")
    settings, _ = load_settings()
    assert settings.secret_key
    assert settings.secret_key.get_secret_value() == PRODUCTION["secret_key"]
    origins = {name: find_origin(name, env_file) for name in ("secret_key", "audience", "port")}
    assert origins == {"secret_key": str(secret), "audience": str(env_file), "port": "environment"}
    assert find_origin("workers", env_file) == "default"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "SECRET_KEY_FILE names .*: No such file or directory"),
        (b"\xff" * 40, "SECRET_KEY_FILE must name a text file in UTF-8"),
        (b"1a" * 32_769, "SECRET_KEY_FILE must name a file of at most 65536 bytes"),
        (b"short", "SECRET_KEY must have between 32 and 1024 characters"),
    ],
    ids=["is not there", "is no text", "is too long", "has a bad value"],
)
def test_a_file_that_cannot_be_a_value_is_named(
    env_file: Path, tmp_path: Path, content: bytes | None, line: str
) -> None:
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    env_file.write_text(f"SECRET_KEY_FILE={secret}\n")
    with pytest.raises(InvalidSettingsError, match=line):
        load_settings()


def test_a_value_and_a_file_for_one_setting_are_refused(env_file: Path) -> None:
    env_file.write_text(f"SECRET_KEY_FILE=x\nSECRET_KEY={PRODUCTION['secret_key']}\n")
    with pytest.raises(InvalidSettingsError, match="SECRET_KEY and SECRET_KEY_FILE are both set"):
        load_settings()


def test_a_settings_file_that_is_no_text_is_named(env_file: Path) -> None:
    env_file.write_bytes(b"AUDIENCE=\xff\n")
    with pytest.raises(InvalidSettingsError, match=r"\.env must be a text file in UTF-8"):
        load_settings()


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
        ("sqlite:///court.db", f"sqlite+aiosqlite:///{home()}/court.db"),
        ("sqlite:///data/court.db", f"sqlite+aiosqlite:///{home()}/data/court.db"),
        ("sqlite+aiosqlite:///court.db", f"sqlite+aiosqlite:///{home()}/court.db"),
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


@pytest.mark.parametrize(
    ("given", "origins"),
    [
        ("", ()),
        ("https://app.camelot.example", ("https://app.camelot.example",)),
        ("HTTPS://App.Camelot.example:443,", ("https://app.camelot.example",)),
        ("http://localhost:80 , http://[::1]:3000", ("http://localhost", "http://[::1]:3000")),
        ("http://localhost:08000", ("http://localhost:8000",)),
    ],
)
def test_origins_are_those_that_browsers_send(given: str, origins: tuple[str, ...]) -> None:
    assert Settings.model_validate({"cors_origins": given}).cors_origins == origins


@pytest.mark.parametrize("given", ["*", "null", "NULL", "https://camelot.example, *"])
def test_an_origin_for_every_website_is_refused(given: str) -> None:
    assert "would allow every website" in refusal(cors_origins=given)


@pytest.mark.parametrize(
    "given",
    [
        "app.camelot.example",
        "https://app.camelot.example/",
        "https://app.camelot.example/path",
        "https://app.camelot.example?",
        "https://arthur@camelot.example",
        "https://*.camelot.example",
        "https://camelot.example:0",
        "https://camelot.example:65536",
        "https://camelot.example:",
        "https://schloß.example",
        "ftp://camelot.example",
        "https://",
        "https://a.example https://b.example",
    ],
)
def test_an_origin_has_scheme_host_and_port_alone(given: str) -> None:
    refused = refusal(cors_origins=given)
    assert "must be origins such as https://app.example.org or http://localhost:3000" in refused


def test_there_are_at_most_a_hundred_origins() -> None:
    names = [f"https://{number}.camelot.example" for number in range(101)]
    assert len(Settings.model_validate({"cors_origins": ",".join(names[1:])}).cors_origins) == 100
    assert "must have at most 100 origins" in refusal(cors_origins=",".join(names))


@pytest.mark.parametrize(
    ("origin", "is_safe"),
    [
        ("https://app.camelot.example", True),
        ("http://localhost:3000", True),
        ("http://127.0.0.1", True),
        ("http://app.camelot.example", False),
        ("http://localhost.camelot.example", False),
        ("http://127.0.0.1.camelot.example", False),
    ],
)
def test_production_allows_http_only_on_this_machine(origin: str, is_safe: bool) -> None:
    values = {**PRODUCTION, "cors_origins": origin}
    if is_safe:
        assert Settings.model_validate(values).cors_origins == (origin,)
    else:
        assert "set CORS_ORIGINS to https origins (http only for localhost)" in refusal(**values)
