"""Mail is written from templates. Each is composed at the start, so that none fails later."""

from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from app.errors import StartupError
from app.mail import messages
from app.mail.messages import NEEDED, check_templates, compose, preferred_language
from app.settings import Settings
from tests.support.settings import make_settings
from tests.support.users import LANCELOT

SENDER = "Camelot <no-reply@camelot.example>"
MAILING = make_settings("sqlite:///x.db", smtp_url="smtp://mail.example", mail_from=SENDER)
BREAK = "=?utf-8?b?eA0KQmNjOiB2QHkuZXhhbXBsZQ==?="  # an encoded word (RFC 2047)


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("de", "de"),
        ("DE-de", "de"),
        ("fr, de;q=0.1", "de"),
        ("de;q=0.1, en;q=0.2", "en"),
        ("de;q=0", "en"),
        ("pt-BR-x-private", "pt-br"),
        ("pt", "en"),
        ("*", "en"),
        ("de;q=high, fr", "en"),
        (";;;,,=", "en"),
        ("de\0", "en"),
        ("../../etc", "en"),
    ],
)
def test_the_best_available_language_is_used(header: str, language: str) -> None:
    assert preferred_language(header, frozenset({"en", "de", "pt-br"})) == language


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("name", NEEDED)
def test_every_template_exists_in_every_language(name: str, language: str) -> None:
    values: Any = {"code": "C-O-D-E", "account": "lancelot", "expires": "soon"}
    values |= {"key_name": "K-E-Y", "time": "today", "address": "192.0.2.7"}
    message = compose(MAILING, name, LANCELOT["email"], language, **values)
    assert message["Content-Language"] == language
    text = message.get_content()
    assert message["Subject"]
    assert "$" not in text + message["Subject"]
    for placeholder in ("code", "key_name"):
        assert (values[placeholder] in text) == (NEEDED[name] == placeholder)


def test_custom_templates_come_before_the_built_in_ones(tmp_path: Path) -> None:
    for language, text in {
        "en": "My $service\n\n    $code\n",
        "fr": "Mon $service\n\n$code",
    }.items():
        (tmp_path / language).mkdir()
        (tmp_path / language / "invite.txt").write_text(text)
    settings = MAILING.model_copy(update={"mail_templates": tmp_path, "issuer": "site"})
    values: Any = {"code": "X", "expires": "soon"}
    subjects = {
        language: compose(settings, "invite", LANCELOT["email"], language, **values)["Subject"]
        for language in ("en", "fr", "de")
    }
    assert subjects["en"] == "My site"
    assert subjects["fr"] == "Mon site"
    assert subjects["de"].startswith("Eine Einladung")
    assert messages.BUILT_IN.is_dir()


def test_a_template_under_its_former_name_is_still_used(tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "renew.txt").write_text("Ours\n\n$code")
    settings = MAILING.model_copy(update={"mail_templates": tmp_path})
    message = compose(settings, "forced_password_reset", LANCELOT["email"], "en", code="X")
    assert message["Subject"] == "Ours"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"$code and $name", "there is no placeholder \\$name"),
        (b"it costs $ 5", "Invalid placeholder"),
        (b"\xff", "can't decode"),
        ("Hello\n$code".encode("utf-16"), "can't decode"),
        (b"Hello\n\nYour code is $$code.", "does not contain \\$code"),
        (b"Your code is $code", "does not contain \\$code"),
        (b"", "subject, is empty"),
        (b" \n\n$code", "subject, is empty"),
        (b"Hello\0\n\n$code", "subject, has a control character"),
        (b"Hello\x0bBcc: mordred@orkney.example\n\n$code", "linefeed or carriage return"),
        ("Hello\u2028there\n\n$code".encode(), "linefeed or carriage return"),
    ],
)
def test_a_template_that_cannot_be_sent_prevents_the_start(
    tmp_path: Path, text: bytes, complaint: str
) -> None:
    settings = with_templates(tmp_path, {"de/reset.txt": text})
    with pytest.raises(StartupError, match=complaint) as refused:
        check_templates(settings)
    assert str(refused.value).startswith(f"MAIL_TEMPLATES: {tmp_path / 'de' / 'reset.txt'} ")


def test_a_wrong_kind_of_file_prevents_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="is not a directory"):
        check_templates(MAILING.model_copy(update={"mail_templates": tmp_path / "none"}))
    (tmp_path / "en" / "reset.txt").mkdir(parents=True)
    with pytest.raises(StartupError, match="Is a directory"):
        check_templates(MAILING.model_copy(update={"mail_templates": tmp_path}))


def test_a_service_name_that_cannot_be_sent_prevents_the_start() -> None:
    with pytest.raises(StartupError, match=r"^SERVICE_NAME or ISSUER: "):
        check_templates(MAILING.model_copy(update={"issuer": "https://camelot.example\r\n"}))


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""], ids=["byte order mark", "none"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_a_template_may_come_from_any_editor(tmp_path: Path, mark: bytes, line_end: bytes) -> None:
    text = mark + line_end.join([b"Hello", b"", b"Your code is ${code}."])
    settings = with_templates(tmp_path, {"en/reset.txt": text})
    check_templates(settings)
    message = compose(settings, "reset", LANCELOT["email"], "", code="C-O-D-E")
    assert message["Subject"] == "Hello"
    assert message.get_content() == "Your code is C-O-D-E.\n"


def test_files_that_are_not_templates_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = b"Hello\n\n$code"
    others = ["README", "de/reset.html", "de/rest.txt", "de_AT/reset.txt", "reset.txt"]
    hidden = {".git/config": b"", "de/.reset.txt.swp": b""}
    ours = {"de/reset.txt": good, "pt-BR/renew.txt": good, "en/test.txt": b"Hello"}
    check_templates(with_templates(tmp_path, dict.fromkeys(others, b"$?") | hidden | ours))
    (message,) = caplog.messages
    assert f"not LANGUAGE/NAME.txt: {', '.join(others)}. Names: reset, " in message


def test_of_many_files_that_are_not_templates_only_some_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_templates(with_templates(tmp_path, {f"{number:02}": b"" for number in range(13)}))
    (message,) = caplog.messages
    assert "08, 09 and 3 more. Names" in message


def with_templates(directory: Path, files: dict[str, bytes]) -> Settings:
    for name, text in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(text)
    return MAILING.model_copy(update={"mail_templates": directory})


def test_a_relative_directory_of_templates_is_relative_to_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOURPASS_HOME", str(tmp_path))
    (tmp_path / "texts").mkdir()
    settings = make_settings("sqlite:///x.db", mail_templates="texts")
    assert settings.mail_templates == tmp_path / "texts"
    absolute = make_settings("sqlite:///x.db", mail_templates=messages.BUILT_IN)
    assert absolute.mail_templates == messages.BUILT_IN


def test_a_domain_is_written_in_ascii() -> None:
    message = compose(MAILING, "test", "lancelot@köln.example", "")
    assert message["To"] == "lancelot@xn--kln-sna.example"


def test_no_name_becomes_a_header(tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "test.txt").write_text("For $account\n\n$account\n")
    settings = MAILING.model_copy(update={"mail_templates": tmp_path})
    message = compose(settings, "test", LANCELOT["email"], "", account=BREAK)
    assert message_from_bytes(bytes(message)).keys() == message.keys()
    assert message["Subject"] == f"For {BREAK.replace('=?', '= ?')}"
