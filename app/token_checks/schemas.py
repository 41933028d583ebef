from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, BeforeValidator, Field, SecretStr

from app.http.bodies import ConstantMessage, RequestBody
from app.tokens.jwt import CLIENT_ID, MAX_AUDIENCE_LENGTH
from app.users.authenticated_user import AuthenticatedUser

# Envoy sends the method and, below /verify, the path and query of the request that it checks.
VERIFY_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
VERIFY_PARAMETERS = {
    "parameters": [
        {
            "name": "audience",
            "in": "query",
            "description": "Audience that the token must have. Before all other parameters, so "
            "that no query that a proxy appends can choose it. Default: the setting `AUDIENCE`.",
            "schema": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_AUDIENCE_LENGTH,
                "examples": ["https://models.example.com"],
            },
        },
        {
            "name": "scope",
            "in": "query",
            "description": "Scopes that the token must cover: `predict:fraud-*` covers "
            "`predict:fraud-v3`. A value can contain several, separated by spaces.",
            "schema": {
                "type": "array",
                # Without the description, OpenAPI Generator's items can be null in Go.
                "items": {"type": "string", "description": "A scope, or several."},
                "examples": [["predict:fraud-v3"]],
            },
        },
    ]
}


class TokenStatus(BaseModel):
    message: ConstantMessage = "Token is valid"


# Frameworks and proxies have bounds for a header; 4,096 bytes is a usual one.
MAX_SCOPES_HEADER = 3_800

IDENTITY_HEADERS = {
    "X-Auth-User-Id": "The user's id.",
    "X-Auth-Username": "The user's name as UTF-8, percent-encoded (RFC 3986, 2.1).",
    "X-Auth-Kind": "`person`, or `service` for a service account.",
    "X-Auth-Scopes": "The token's scopes, separated by spaces. Absent if they would be longer than "
    f"{MAX_SCOPES_HEADER:,} bytes.",
    "X-Auth-Key-Id": "The id of the API key that the token comes from. Absent if there is none.",
}


_OPTIONAL_HEADERS = ("X-Auth-Scopes", "X-Auth-Key-Id")
IDENTITY_HEADER_DOCS = {
    name: {
        "description": description,
        "schema": {"type": "string"},
        "required": name not in _OPTIONAL_HEADERS,
    }
    for name, description in IDENTITY_HEADERS.items()
}


def identity_headers(user: AuthenticatedUser) -> tuple[tuple[bytes, bytes], ...]:
    """The values of IDENTITY_HEADERS in the format of ASGI."""
    scopes = " ".join(sorted(user.scopes))
    values = (
        str(user.id),
        quote(user.username),
        user.kind,
        scopes if len(scopes) <= MAX_SCOPES_HEADER else None,
        user.api_key_id,
    )
    return tuple(
        (name.lower().encode(), value.encode())
        for name, value in zip(IDENTITY_HEADERS, values, strict=True)
        if value is not None
    )


def _strip(token: Any) -> Any:
    """A token that was read from a file often ends with a line break."""
    return token.strip() if isinstance(token, str) else token


class TokenForm(RequestBody):
    """RFC 7009, 2.1 and RFC 7662, 2.1. The hint is ignored: the kinds of token look different."""

    token: Annotated[SecretStr, BeforeValidator(_strip)] = Field(
        min_length=1, description="An access token, a refresh token or an API key."
    )
    token_type_hint: str | None = Field(None, description="Ignored.", examples=["access_token"])


class TokenRevoked(BaseModel):
    message: ConstantMessage = "Token revoked"
    revoked: bool = Field(
        default=True,
        description="False if there was nothing to revoke: the token is not valid.",
        examples=[True],
    )

    @classmethod
    def nothing(cls) -> "TokenRevoked":
        return cls(message="The token is not valid, nothing was revoked", revoked=False)


class Introspection(BaseModel):
    """RFC 7662, 2.2. For an inactive token, `active` is the only member."""

    active: bool = Field(description="Whether the token is valid.")
    scope: str | None = Field(
        None, description="Scopes of the token, separated by spaces.", examples=["admin"]
    )
    client_id: str | None = Field(
        None,
        description=f"The id of the API key that the token comes from, otherwise `{CLIENT_ID}`.",
        examples=[CLIENT_ID],
    )
    username: str | None = Field(None, description="The user's name.", examples=["eligijus"])
    token_type: Literal["bearer"] | None = Field(None, description="Always `bearer`.")
    exp: int | None = Field(
        None, description="Expiry, in seconds since 1970.", examples=[1795461965]
    )
    iat: int | None = Field(
        None, description="Time of issue, in seconds since 1970.", examples=[1795458365]
    )
    auth_time: int | None = Field(
        None, description="Time of the login, in seconds since 1970.", examples=[1795458365]
    )
    amr: list[str] | None = Field(
        None,
        description="RFC 8176. Only after a login with a second factor.",
        examples=[["pwd", "otp", "mfa"]],
    )
    sub: str | None = Field(None, description="The user's id.", examples=["10"])
    aud: str | None = Field(
        None,
        description="Audience: the API that the token is for. By default the setting `AUDIENCE`.",
        examples=["ml-api"],
    )
    iss: str | None = Field(
        None, description="Issuer: the setting `ISSUER`.", examples=["https://auth.example.com"]
    )
    jti: str | None = Field(
        None, description="The token's id.", examples=["WCy_rFKJALVgQjyXDV5HeQ"]
    )
    sid: str | None = Field(
        None,
        description="The session's id, if the token has a session.",
        examples=["1c7a40a3e5b64dd2"],
    )
    kind: Literal["person", "service"] | None = Field(
        None, description="Kind of the user: `service` is a service account.", examples=["person"]
    )
    key_id: str | None = Field(
        None, description="The id of the API key that the token comes from, if any."
    )
    networks: list[str] | None = Field(
        None,
        description="The networks from which the token works, in CIDR notation, if it does not "
        "work from everywhere. Compare them with the address of your client.",
        examples=[["192.0.2.0/24"]],
    )
