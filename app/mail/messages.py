"""Composes mail from template files: plain text, one folder per language.

The first line of a template is the subject. The placeholders are `$code`, `$account`, `$expires`
and `$service`. Messages do not track whether they are read.
"""

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
_FORMER_NAMES = {"forced_password_reset": "renew"}  # until version 0.2
PLACEHOLDERS = ("account", "code", "expires", "service")


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
    subject, _, body = _template(directories, language, name).partition("\n")
    values = {**dict.fromkeys(PLACEHOLDERS, ""), **values, "service": settings.issuer}
    address = _address(to)
    message = EmailMessage(SMTP if address.addr_spec.isascii() else SMTPUTF8)
    message["From"] = settings.mail_from
    message["To"] = address
    # Python would decode an encoded word, possibly to a line break and another header, as in
    # parse_email().
    message["Subject"] = Template(subject).substitute(values).replace("=?", "= ?")
    message["Date"] = date or localtime()
    domain = domain_of(settings)
    message["Message-ID"] = f"<{message_id}@{domain}>" if message_id else make_msgid(domain=domain)
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834, 5: no automatic replies
    message.set_content(Template(body.lstrip("\n")).substitute(values), cte="quoted-printable")
    message["Content-Language"] = language
    return message


def check_templates(settings: Settings) -> None:
    """Check the operator's templates. Raises StartupError."""
    directory = settings.mail_templates
    if directory is None:
        return
    if not directory.is_dir():
        raise StartupError(f"MAIL_TEMPLATES: {directory} is not a directory.")
    for path in directory.glob("*/*.txt"):
        try:
            Template(path.read_text("utf-8")).substitute(dict.fromkeys(PLACEHOLDERS, ""))
        except (KeyError, ValueError) as error:
            raise StartupError(f"MAIL_TEMPLATES: {path} is not valid: {error}.") from None


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
    return next(paths).read_text("utf-8")


def _paths(directories: tuple[Path, ...], name: str) -> Iterator[Path]:
    """The operator's templates come first. Templates may have their former names."""
    for directory in directories:
        yield from directory.glob(f"*/{name}.txt")
        if name in _FORMER_NAMES:
            yield from directory.glob(f"*/{_FORMER_NAMES[name]}.txt")


def _address(email: str) -> Address:
    """With the domain in ASCII, for all servers, and the local part unchanged (RFC 6531)."""
    parts = parse_email(email)
    return Address(username=parts.local_part, domain=parts.ascii_domain)
