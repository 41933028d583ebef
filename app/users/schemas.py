"""HTTP bodies about users, and the rules for usernames, e-mail addresses and scopes."""

from datetime import datetime
from typing import Annotated, Literal

from email_validator import EmailNotValidError, ValidatedEmail, validate_email
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.http.bodies import ConstantMessage, RequestBody
from app.security.one_time_codes.schemas import CodeText
from app.security.passwords import Password
from app.tokens.scopes import MAX_SCOPES_LENGTH, RESERVED_SCOPES
from app.users.login_account import normalize_username
from app.users.models import normalize_email
from app.users.visible_text import check_visible_text
from hourpass.scopes import find_error

SERVICE_PREFIX = "svc-"  # of the names of service accounts, and of nobody else's


def has_service_prefix(username: str) -> bool:
    """As usernames are compared, so that nobody looks like a service account."""
    return normalize_username(username).startswith(SERVICE_PREFIX)


def _check_username(username: str) -> str:
    check_visible_text(username)
    if len(normalize_username(username)) > 64:
        raise PydanticCustomError("username", "Must have at most 64 characters after normalization")
    return username


def parse_email(email: str) -> ValidatedEmail:
    """Raises EmailNotValidError."""
    parts = validate_email(email, check_deliverability=False)
    # Python decodes an encoded word (RFC 2047) when it writes a header. The result may contain a
    # line break, and so inject a header.
    if "=?" in parts.local_part:
        raise EmailNotValidError
    return parts


def normalize_typed_email(text: str) -> str:
    """As normalize_email(), for text that may be an address in another spelling than the stored
    one, such as with a domain in Punycode or in capitals."""
    try:
        return normalize_email(parse_email(text).normalized)
    except EmailNotValidError:
        return normalize_email(text)


def _check_email(email: str) -> str:
    # The library's message quotes the address, so the response does not repeat it.
    try:
        normalized = parse_email(email).normalized
    except EmailNotValidError:
        raise PydanticCustomError("email", "Must be an e-mail address") from None
    if len(normalize_email(normalized)) > 254:
        raise PydanticCustomError("email", "Must have at most 254 characters after case folding")
    return normalized


Username = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_check_username)]
Email = Annotated[str, Field(max_length=254), AfterValidator(_check_email)]
EmailChange = Annotated[  # for bodies in which null means no change
    str, Field(max_length=254), AfterValidator(lambda email: email and _check_email(email))
]


def _check_scope(scope: str) -> str:
    if error := find_error(scope):
        raise PydanticCustomError("scope", "{reason}", {"reason": error})
    if scope in RESERVED_SCOPES:
        raise PydanticCustomError("scope", "admin and offline_access cannot be granted like this")
    return scope


def _check_scopes(scopes: list[str]) -> list[str]:
    if len(" ".join(scopes)) > MAX_SCOPES_LENGTH:
        rule = f"Must have at most {MAX_SCOPES_LENGTH:,} characters in total"
        raise PydanticCustomError("scopes", rule)
    return sorted(set(scopes))


Scopes = Annotated[
    list[Annotated[str, AfterValidator(_check_scope)]],
    Field(max_length=250),
    AfterValidator(_check_scopes),
]
"""Scopes to be granted. The operation compares them with the longest access token."""


Kind = Literal["person", "service"]
KIND_DESCRIPTION = "`person`, or `service` for a service account: a program with API keys."


class NewAccount(RequestBody):
    """What every account needs. The e-mail address is optional on the command line."""

    username: Username = Field(
        description="Stored as typed. Compared without regard to case and Unicode form."
    )
    password: Password = Field(description="Up to 128 characters.")
    email: Email | None = Field(None, description="E-mail address. Default: none.")


class NewUser(NewAccount):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "username": "eligijus",
                    "password": "correct horse battery staple",
                    "email": "eligijus@example.org",
                }
            ]
        }
    )

    email: Email = Field(
        description="E-mail address. It can belong to several users.",
        json_schema_extra={"format": "email"},
    )
    invitation: CodeText | None = Field(
        None, description="Code of an invitation. Required with `REGISTRATION=invite`."
    )


class UserCreated(BaseModel):
    message: ConstantMessage = "User created successfully"
    user_id: int = Field(description="The user's id.", examples=[10])


class PermissionUpdated(BaseModel):
    message: ConstantMessage = "User permission updated successfully"
    user_id: int = Field(description="The user's id.", examples=[10])


class TokensRevoked(BaseModel):
    message: ConstantMessage = "All tokens revoked"
    user_id: int = Field(description="The user's id.", examples=[10])


class UserRemoved(BaseModel):
    message: ConstantMessage = "User deleted successfully"


class Profile(BaseModel):
    """The account of the caller."""

    model_config = ConfigDict(from_attributes=True)

    id: int = Field(description="The user's id.", examples=[10])
    username: str = Field(description="As the user typed it.", examples=["eligijus"])
    email: str | None = Field(
        description="Null if the user has none, or if the token may not read it.",
        examples=["eligijus@example.org"],
    )
    email_verified: bool = Field(
        description="Whether the user confirmed the address. False if the token may not read it."
    )
    is_admin: bool = Field(description="Whether the user may administer.", examples=[False])
    kind: Kind = Field(description=KIND_DESCRIPTION, examples=["person"])
    groups: list[str] = Field([], description="Names of the user's groups.", examples=[["team"]])
    created_at: datetime = Field(description="When the user was created.")

    def without_email(self) -> "Profile":
        return self.model_copy(update={"email": None, "email_verified": False})
