"""`hourpass init` writes a `.env` with which production starts, and shows no secret."""

import os
import stat
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from dotenv import dotenv_values

from app.cli.main import main
from app.settings import ROOT, find_errors

ISSUER = "https://login.camelot.example"
COMPOSE = ROOT / "docker-compose.yml"
SMTP = "smtp://arthur:excalibur@mail.camelot.example"


def init(directory: Path, *options: str, stdin: str = "", **variables: str) -> Result:
    return CliRunner().invoke(main, ["init", str(directory), *options], input=stdin, env=variables)


def written(directory: Path) -> dict[str, str]:
    return {name: value or "" for name, value in dotenv_values(directory / ".env").items()}


def test_without_questions_it_needs_only_the_issuer(tmp_path: Path) -> None:
    result = init(tmp_path / "new", "--no-input", "--issuer", ISSUER)
    assert result.exit_code == 0, result.output
    values = written(tmp_path / "new")
    assert list(values) == ["ENVIRONMENT", "SECRET_KEY", "ISSUER", "DATABASE_URL"]
    assert find_errors(values) == []
    assert len(values["SECRET_KEY"]) == 64
    assert f"Next: HOURPASS_HOME={tmp_path}/new hourpass serve" in result.output
    assert "hourpass users create NAME --admin" in result.output
    path = tmp_path / "new" / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert_shows_no_secret(result, values)


def test_each_run_generates_other_secrets(tmp_path: Path) -> None:
    options = ("--no-input", "--issuer", ISSUER)
    found: list[str] = []
    for name in ("one", "two"):
        assert init(tmp_path / name, *options, "--admin", "arthur").exit_code == 0
        values = written(tmp_path / name)
        found += values["SECRET_KEY"], values["FIRST_ADMIN_PASSWORD"]
        assert init(tmp_path / name / "composed", *options, "--compose").exit_code == 0
        found += secret_files(tmp_path / name / "composed").values()
    assert len(set(found)) == 10


def assert_shows_no_secret(result: Result, values: dict[str, str]) -> None:
    for name in ("SECRET_KEY", "FIRST_ADMIN_PASSWORD"):
        assert values.get(name, "?none") not in result.output


def test_it_asks_again_after_an_invalid_answer(tmp_path: Path) -> None:
    answers = (
        *("http://login.camelot.example", ISSUER),
        "n",
        *("10.1.0.0/8", "10.0.0.0/8, 127.0.0.1"),
        *("mysql://court", "postgresql://arthur:s$cret#1@db/court"),
        "arthur",
        *("Camelot", "Camelot <no-reply@camelot.example>"),
        *("smtp://arthur:ex#calibur@mail", SMTP),
    )
    result = init(tmp_path, stdin="\n".join(answers) + "\n")
    assert result.exit_code == 0, result.output
    values = written(tmp_path)
    password = values.pop("FIRST_ADMIN_PASSWORD")
    assert len(password) == 20
    del values["SECRET_KEY"]
    assert values == {
        "ENVIRONMENT": "production",
        "ISSUER": ISSUER,
        "DATABASE_URL": "postgresql://arthur:s$cret#1@db/court",
        "TRUSTED_PROXIES": "10.0.0.0/8, 127.0.0.1",
        "FIRST_ADMIN_USERNAME": "arthur",
        "MAIL_FROM": "Camelot <no-reply@camelot.example>",
        "SMTP_URL": SMTP,
    }
    for line in (
        "set ISSUER to the https URL",
        "DATABASE_URL must begin with sqlite:/// or postgresql://",
        "TRUSTED_PROXIES must name a network by its first address: 10.0.0.0/8",
        "MAIL_FROM must be one e-mail address",
        "SMTP_URL must have the # in its user or password as %23",
    ):
        assert line in result.stderr
    assert password not in result.output
    assert "DATABASE_URL='postgresql" in (tmp_path / ".env").read_text()


def secret_files(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in (directory / "secrets").iterdir()}


def test_with_docker_compose_the_secrets_are_files(tmp_path: Path) -> None:
    """Those that docker-compose.yml names; users of the containers have to read them."""
    (tmp_path / "docker-compose.yml").touch()
    umask = os.umask(0o077)
    result = init(tmp_path, stdin=f"{ISSUER}\n\n10.0.0.1\n")  # yes, as the file is there
    os.umask(umask)
    assert result.exit_code == 0, result.output
    values = {"ENVIRONMENT": "production", "ISSUER": ISSUER, "TRUSTED_PROXIES": "10.0.0.1"}
    assert written(tmp_path) == values
    found = secret_files(tmp_path)
    assert set(found) == set(yaml.safe_load(COMPOSE.read_text())["secrets"])
    assert found["database_password"].isalnum()  # it is part of a URL
    url = f"postgresql://hourpass:{found['database_password']}@database/hourpass"
    assert found["database_url"] == url
    names = {"SECRET_KEY": found["secret_key"], "DATABASE_URL": url}
    assert find_errors({**values, **names}) == []
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "secrets").iterdir()}
    assert modes == {0o644}
    assert f"Next: cd {tmp_path} && docker compose up -d --wait" in result.output
    assert not [secret for secret in found.values() if secret in result.output]


def test_with_docker_compose_a_directory_that_others_can_read_is_closed(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir(mode=0o755)
    assert init(tmp_path, "--no-input", "--compose", "--issuer", ISSUER).exit_code == 0
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


def test_with_docker_compose_the_database_of_the_image_is_not_used(tmp_path: Path) -> None:
    options = ("--no-input", "--compose", "--issuer", ISSUER)
    assert init(tmp_path, *options, DATABASE_URL="sqlite:////data/hourpass.db").exit_code == 0
    assert secret_files(tmp_path)["database_url"].endswith("@database/hourpass")
    url = "postgresql://arthur:secret@db/court"
    assert init(tmp_path / "own", *options, "--database-url", url).exit_code == 0
    assert secret_files(tmp_path / "own")["database_url"] == url


@pytest.mark.parametrize("name", ["secret_key", "database_password", "database_url"])
def test_with_docker_compose_it_replaces_no_secret(tmp_path: Path, name: str) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / name).write_text("x")
    result = init(tmp_path, "--no-input", "--compose", "--issuer", ISSUER)
    assert (result.exit_code, secret_files(tmp_path)) == (1, {name: "x"})
    assert not (tmp_path / ".env").exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_it_replaces_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ".env"
    if kind == "file":
        path.write_text("PORT=8123\n")
    else:
        path.symlink_to(tmp_path / "elsewhere")
    result = init(tmp_path, "--no-input", "--issuer", ISSUER)
    assert result.exit_code == 1
    assert f"{path} exists already" in result.output
    assert [each.name for each in tmp_path.iterdir()] == [".env"]
    if kind == "file":
        assert path.read_text() == "PORT=8123\n"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        pytest.param([], "ISSUER is required.", id="no issuer"),
        pytest.param(["--issuer", ""], "ISSUER is required.", id="an empty issuer"),
        pytest.param(
            ["--issuer", "http://camelot.example"], "set ISSUER to the https URL", id="http"
        ),
        pytest.param(
            ["--issuer", ISSUER, "--mail-from", "no-reply@camelot.example"],
            "SMTP_URL is required.",
            id="mail without a server",
        ),
        pytest.param(
            ["--issuer", ISSUER, "--compose", "--admin", "arthur"],
            "With Docker Compose, leave --admin and --mail-from out",
            id="an administrator with Docker Compose",
        ),
        pytest.param(
            ["--issuer", ISSUER, "--admin", "o'neill"],
            "FIRST_ADMIN_USERNAME must not contain quotation marks",
            id="a value that .env cannot have",
        ),
        pytest.param(
            ["--issuer", ISSUER, "--database-url", "postgresql://a:${HOME}@db/x"],
            "DATABASE_URL must not contain",
            id="a value that would be replaced",
        ),
    ],
)
def test_an_invalid_option_is_named_and_nothing_is_written(
    tmp_path: Path, options: list[str], line: str
) -> None:
    result = init(tmp_path, "--no-input", *options)
    assert (result.exit_code, line in result.stderr) == (2, True), result.output
    assert list(tmp_path.iterdir()) == []


def test_urls_with_passwords_can_come_from_the_environment(tmp_path: Path) -> None:
    """Other users can see the options of a command."""
    variables = {"SMTP_URL": SMTP, "DATABASE_URL": "postgresql://arthur:secret@db/court"}
    options = ("--no-input", "--issuer", ISSUER, "--mail-from", "no-reply@camelot.example")
    result = init(tmp_path, *options, **variables, PORT="8123", ISSUER="https://x.example")
    assert result.exit_code == 0, result.output
    assert written(tmp_path).items() >= variables.items()
    assert "PORT" not in written(tmp_path)
    assert result.stderr == "Warning: ISSUER is in the environment too, which overrides the file.\n"
    assert not {"excalibur", "secret"} & set(result.output.replace("@", ":").split(":"))


def test_a_directory_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    result = init(tmp_path / "a" / "b", "--no-input", "--issuer", ISSUER)
    assert result.exit_code == 1
    assert f"Cannot write {tmp_path}/a/b/.env: No such file or directory." in result.output
