"""Composes mail from template files: plain text, one folder per language.

The first line of a template is the subject. The placeholders are `$code`, `$account`, `$expires`
and `$service`, and in notices `$key_name`, `$time` and `$address`. Messages do not track whether
they are read.
"""

import logging
import re
import unicodedata
from collections.abc import Iterator
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import localtime, make_msgid, parseaddr
from functools import cache
from pathlib import Path
from string import Template

from app.errors import StartupError
from app.settings import Settings
from app.users.schemas import parse_email

BUILT_IN = Path(__file__).parent / "templates"
FALLBACK = "en"
_FORMER_NAMES = {"forced_password_reset": ("renew",)}  # until version 0.2
PLACEHOLDERS = ("account", "address", "code", "expires", "key_name", "service", "time")
# The templates, and the placeholder without which each would be useless.
NEEDED = {
    "reset": "code",
    "forced_password_reset": "code",
    "verify": "code",
    "invite": "code",
    "api_key_created": "key_name",
    "api_key_rotated": "key_name",
    "api_key_by_administrator": "key_name",
    "email_changed": "account",
    "email_changed_by_administrator": "account",
    "password_changed": "account",
    "password_changed_by_administrator": "account",
    "test": None,
}
NAMES = tuple(NEEDED)

_SAMPLES = {
    "account": "eligijus",
    "code": "MFRG-G2DF-MZTW-Q2LK-NBSW-Y3DP",
    "expires": "2026-11-30 12:00 UTC",
    "key_name": "nightly batch",
    "time": "2026-11-29 12:00 UTC",
    "address": "192.0.2.7",
}
_LANGUAGE_TAG = re.compile("[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*")  # RFC 4647, 2.1
_MAX_NAMED = 10  # files in one log line

_log = logging.getLogger("hourpass.mail")


def compose(  # noqa: PLR0913 - what a message consists of
    settings: Settings,
    name: str,
    to: str,
    languages: str,
    *,
    message_id: str = "",
    date: datetime | None = None,
    **values: str,
) -> EmailMessage:
    """Compose the mail `name`. `languages` is an Accept-Language header. A message that is sent
    again has the `message_id` (the part before the @) and the date of the first time, so that
    mailboxes show it once.

    MAIL_FROM must be set. Raises EmailNotValidError.
    """
    assert settings.mail_from
    directories = (settings.mail_templates, BUILT_IN) if settings.mail_templates else (BUILT_IN,)
    language = preferred_language(languages, _languages(directories, name))
    subject, text = _fill_in(settings, _template(directories, language, name), values)
    address = _address(to)
    message = EmailMessage(SMTP if address.addr_spec.isascii() else SMTPUTF8)
    message["From"] = settings.mail_from
    message["To"] = address
    message["Subject"] = subject
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834, 5: no automatic replies
    message.set_content(text, cte="quoted-printable")
    message["Date"] = date or localtime()
    domain = domain_of(settings)
    message["Message-ID"] = f"<{message_id}@{domain}>" if message_id else make_msgid(domain=domain)
    message["Content-Language"] = language
    return message


def _fill_in(settings: Settings, template: str, values: dict[str, str]) -> tuple[str, str]:
    """The subject and the text. Raises ValueError and KeyError."""
    subject, _, text = template.partition("\n")
    service = settings.service_name or settings.issuer
    values = {**dict.fromkeys(PLACEHOLDERS, ""), **values, "service": service}
    # Python would decode an encoded word, possibly to a line break and another header, as in
    # parse_email().
    subject = Template(subject).substitute(values).replace("=?", "= ?")
    return subject, Template(text.lstrip("\n")).substitute(values)


def check_templates(settings: Settings) -> None:
    """Fill in every template in every language, so that none fails later. Log which files of
    MAIL_TEMPLATES are not templates. Raises StartupError."""
    directory = settings.mail_templates
    if directory and not directory.is_dir():
        raise StartupError(f"MAIL_TEMPLATES: {directory} is not a directory.")
    for name in NAMES:
        for path in _paths((directory, BUILT_IN) if directory else (BUILT_IN,), name):
            try:
                _check(settings, name, path)
            except (KeyError, OSError, ValueError) as error:
                setting = (
                    "SERVICE_NAME or ISSUER" if path.is_relative_to(BUILT_IN) else "MAIL_TEMPLATES"
                )
                problem = f"{setting}: {path} cannot be sent: {_describe(error)}."
                raise StartupError(problem) from None
    if directory and (others := _other_files(directory)):
        more = f" and {len(others) - _MAX_NAMED} more" if len(others) > _MAX_NAMED else ""
        _log.warning(
            "MAIL_TEMPLATES: ignored, because they are not LANGUAGE/NAME.txt: %s%s. Names: %s",
            ", ".join(others[:_MAX_NAMED]),
            more,
            ", ".join(NAMES),
        )


def _check(settings: Settings, name: str, path: Path) -> None:
    """Raises ValueError, KeyError for an unknown placeholder, and OSError."""
    subject, text = _fill_in(settings, _read(path), _SAMPLES)
    # Of a whole message, only the subject can fail. This is done at each start, and composing all
    # messages takes five times as long.
    message = EmailMessage(SMTP)
    message["Subject"] = subject
    bytes(message)
    subject = message["Subject"]
    if not subject.strip():
        raise ValueError("the first line, which is the subject, is empty")
    if any(unicodedata.category(character) == "Cc" for character in subject):
        raise ValueError("the first line, which is the subject, has a control character")
    needed = NEEDED[name]
    if needed and _SAMPLES[needed] not in text:
        raise ValueError(f"the text does not contain ${needed}")


def _describe(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"there is no placeholder ${error.args[0]}"
    return getattr(error, "strerror", None) or str(error)


def _other_files(directory: Path) -> list[str]:
    """Files that no mail uses, as far as operators put templates there. Not hidden ones."""
    ours = {path for name in NAMES for path in _paths((directory,), name)}
    found = {path for pattern in ("*", "*/*") for path in directory.glob(pattern)}
    names = (path.relative_to(directory) for path in found - ours if path.is_file())
    return sorted(str(name) for name in names if not any(part[0] == "." for part in name.parts))


def domain_of(settings: Settings) -> str:
    """The domain of the sender. It is given explicitly where the library would look up a hostname
    in the DNS."""
    return parseaddr(settings.mail_from or "")[1].rpartition("@")[2]


def preferred_language(header: str, available: frozenset[str]) -> str:
    """The best available language for an Accept-Language header, by lookup (RFC 4647, 3.4)."""
    ranked: list[tuple[float, str]] = []
    for part in header.lower().split(","):
        tag, *parameters = (word.strip() for word in part.split(";"))
        quality = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        try:
            ranked.append((-float(quality), tag))
        except ValueError:
            continue
    for rank, tag in sorted(ranked, key=lambda entry: entry[0]):
        subtags = tag.split("-")
        for length in range(len(subtags), 0, -1):
            language = "-".join(subtags[:length])
            if rank < 0 and language in available:
                return language
    return FALLBACK


@cache
def _languages(directories: tuple[Path, ...], name: str) -> frozenset[str]:
    return frozenset(path.parent.name.lower() for path in _paths(directories, name))


@cache
def _template(directories: tuple[Path, ...], language: str, name: str) -> str:
    paths = (path for path in _paths(directories, name) if path.parent.name.lower() == language)
    return _read(next(paths))


def _read(path: Path) -> str:
    """Some editors put a byte order mark first."""
    return path.read_text("utf-8-sig")


def _paths(directories: tuple[Path, ...], name: str) -> Iterator[Path]:
    """The operator's templates come first. Templates may have their former names."""
    for directory in directories:
        for file in (name, *_FORMER_NAMES.get(name, ())):
            for path in directory.glob(f"*/{file}.txt"):
                if _LANGUAGE_TAG.fullmatch(path.parent.name):
                    yield path


def _address(email: str) -> Address:
    """With the domain in ASCII, for all servers, and the local part unchanged (RFC 6531)."""
    parts = parse_email(email)
    return Address(username=parts.local_part, domain=parts.ascii_domain)
