"""What a mail says: plain text from template files, one folder per language.

The first line of a template is its subject. `$code`, `$account`, `$expires` and `$service` stand
for what they say. Nothing tells the sender whether, when or where a message is read.
"""

from collections.abc import Iterator
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


def compose(settings: Settings, name: str, to: str, languages: str, **values: str) -> EmailMessage:
    """The mail `name` in the language that an Accept-Language header asks for.

    MAIL_FROM is set. Raises EmailNotValidError.
    """
    assert settings.mail_from
    places = (settings.mail_templates, BUILT_IN) if settings.mail_templates else (BUILT_IN,)
    language = preferred(languages, _languages(places, name))
    subject, _, body = _template(places, language, name).partition("\n")
    values = {**dict.fromkeys(PLACEHOLDERS, ""), **values, "service": settings.issuer}
    address = _address(to)
    message = EmailMessage(SMTP if address.addr_spec.isascii() else SMTPUTF8)
    message["From"] = settings.mail_from
    message["To"] = address
    # Not with an encoded word, for the reason that parse_email() has.
    message["Subject"] = Template(subject).substitute(values).replace("=?", "= ?")
    message["Date"] = localtime()
    message["Message-ID"] = make_msgid(domain=domain_of(settings))
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834, 5: so that nobody's holiday answers
    message.set_content(Template(body.lstrip("\n")).substitute(values), cte="quoted-printable")
    message["Content-Language"] = language
    return message


def check_templates(settings: Settings) -> None:
    """Raise StartupError for a text of the operator's own that could not be sent."""
    place = settings.mail_templates
    if place is None:
        return
    if not place.is_dir():
        raise StartupError(f"MAIL_TEMPLATES: {place} is no directory.")
    for path in place.glob("*/*.txt"):
        try:
            Template(path.read_text("utf-8")).substitute(dict.fromkeys(PLACEHOLDERS, ""))
        except (KeyError, ValueError) as error:
            raise StartupError(f"MAIL_TEMPLATES: {path} has a mistake: {error}.") from None


def domain_of(settings: Settings) -> str:
    """The sender's: what a name is needed for would else be looked for in the DNS."""
    return parseaddr(settings.mail_from or "")[1].rpartition("@")[2]


def preferred(header: str, available: frozenset[str]) -> str:
    """The best language of an Accept-Language header, looked up as RFC 4647, 3.4 does."""
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
def _languages(places: tuple[Path, ...], name: str) -> frozenset[str]:
    return frozenset(path.parent.name.lower() for path in _paths(places, name))


@cache
def _template(places: tuple[Path, ...], language: str, name: str) -> str:
    paths = (path for path in _paths(places, name) if path.parent.name.lower() == language)
    return next(paths).read_text("utf-8")


def _paths(places: tuple[Path, ...], name: str) -> Iterator[Path]:
    """The operator's own templates come first, also under their former names."""
    for place in places:
        yield from place.glob(f"*/{name}.txt")
        if name in _FORMER_NAMES:
            yield from place.glob(f"*/{_FORMER_NAMES[name]}.txt")


def _address(email: str) -> Address:
    """Every server knows a domain in ASCII; what stands before the @ goes as it is (RFC 6531)."""
    parts = parse_email(email)
    return Address(username=parts.local_part, domain=parts.ascii_domain)
