from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from app.credentials.second_factors.schemas import Otp
from app.http.bodies import RequestBody
from app.security.passwords import Password
from app.tokens.jwt import MAX_AUDIENCE_LENGTH
from app.tokens.scopes import BEARER

# RFC 8693, 2.1 and 3
EXCHANGE_GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
ISSUED_TYPE: Literal["urn:ietf:params:oauth:token-type:access_token"] = (
    "urn:ietf:params:oauth:token-type:access_token"
)
API_KEY = "urn:hourpass:params:oauth:token-type:api_key"

Resource = Annotated[  # dependencies.py has parsed it
    str,
    Field(
        max_length=MAX_AUDIENCE_LENGTH,
        description="The URI of the API that the token is for (RFC 8707). The token then works "
        "there only, and not for the account or the administration. A refresh cannot change it. "
        "Default: the setting `AUDIENCE`.",
    ),
]


class PasswordGrantBody(RequestBody):
    """RFC 6749, 4.3.2. `grant_type` is optional, since many clients omit it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"username": "eligijus", "password": "correct horse battery staple"}]
        }
    )

    grant_type: Literal["password"] = "password"
    # Looser than a new user's name: a name that cannot exist is an unknown user.
    username: Annotated[str, Field(max_length=64, description="The user's name.")]
    password: Password = Field(description="The user's password.")
    otp: Otp | None = Field(
        None,
        description="Only with a second factor: 6 digits from the authenticator app, or a recovery "
        "code.",
    )
    scope: str = Field(
        "",
        max_length=4000,
        description="Scopes, separated by spaces. `offline_access` requests a refresh token; other "
        "scopes limit the token to what they and the scopes of the user both allow. Default: all "
        "of the user.",
    )
    exclude_scope: str = Field(
        "",
        max_length=1000,
        description="Scopes that the token must not have, separated by spaces, such as `admin`. "
        "Each also removes the patterns that cover it and the scopes that it covers.",
    )
    resource: Resource | None = None


class RefreshGrantBody(RequestBody):
    """RFC 6749, 6. A refresh token works once. Use the one from the response next."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"grant_type": "refresh_token", "refresh_token": "hpr_7d1e…"}]
        }
    )

    grant_type: Literal["refresh_token"]
    refresh_token: SecretStr = Field(
        max_length=200, description="With `grant_type=refresh_token` only."
    )
    resource: Resource | None = None


class TokenExchangeBody(RequestBody):
    """RFC 8693, 2.1. Only an API key can be exchanged."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "grant_type": EXCHANGE_GRANT,
                    "subject_token": "hp_…",
                    "subject_token_type": API_KEY,
                }
            ]
        }
    )

    grant_type: Literal["urn:ietf:params:oauth:grant-type:token-exchange"]
    # Without bounds: a key of a wrong length gets the same response as any other invalid key.
    subject_token: SecretStr = Field(description="With a token exchange only: an API key.")
    subject_token_type: Literal["urn:hourpass:params:oauth:token-type:api_key"] = Field(
        description=f"With a token exchange only: `{API_KEY}`."
    )
    requested_token_type: Literal["urn:ietf:params:oauth:token-type:access_token"] = Field(
        ISSUED_TYPE, description="With a token exchange only. Default: the only value."
    )
    audience: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,200}$")] | None = Field(
        None,
        description="With a token exchange only: the API that the token is for. Default: the "
        "setting `AUDIENCE`.",
    )
    resource: Resource | None = None
    scope: str = Field(
        "",
        max_length=4000,
        description="Scopes, separated by spaces, that limit the token to those of them that the "
        "key has. Default: all of the key.",
    )
    actor_token: SecretStr | None = Field(None, description="Not supported: a key acts for itself.")
    actor_token_type: str | None = Field(None, description="Not supported.")


class ClientCredentialsBody(RequestBody):
    """RFC 6749, 4.4.2. The credentials can also be sent with HTTP Basic (RFC 6749, 2.3.1)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "grant_type": "client_credentials",
                    "client_id": "svc-nightly-scoring",
                    "client_secret": "hp_…",
                }
            ]
        }
    )

    grant_type: Literal["client_credentials"]
    # Both without bounds, and optional: the response is that for any other wrong credentials.
    client_id: str | None = Field(
        None, description="With client credentials only: the name of a service account."
    )
    client_secret: SecretStr | None = Field(
        None, description="With client credentials only: one of the account's API keys."
    )
    resource: Resource | None = None
    scope: str = Field(
        "",
        max_length=4000,
        description="Scopes, separated by spaces, that limit the token to those of them that the "
        "key has. Default: all of the key.",
    )


GrantBody = PasswordGrantBody | RefreshGrantBody | TokenExchangeBody | ClientCredentialsBody


class GrantRequest(NamedTuple):
    body: GrantBody
    by_form: bool  # decides how an error looks


class IssuedToken(BaseModel):
    """RFC 6749, 5.1. `token` repeats `access_token`, for older clients."""

    token: str = Field(description="The access token.", examples=["eyJhbGciOiJFUzI1NiIs…"])
    access_token: str = Field(
        description="The access token, a JWT (RFC 9068).", examples=["eyJhbGciOiJFUzI1NiIs…"]
    )
    token_type: Literal["bearer"] = Field(BEARER, description="Always `bearer`.")
    expires_in: int = Field(description="Lifetime in seconds.", examples=[3600])
    refresh_token: str | None = Field(
        None, description="Only if `offline_access` was requested.", examples=["hpr_7d1e…"]
    )
    scope: str | None = Field(
        None,
        description="Scopes of the token, separated by spaces. They may be fewer than you "
        "requested. Absent if there are none.",
        examples=["admin"],
    )
    issued_token_type: Literal["urn:ietf:params:oauth:token-type:access_token"] | None = Field(
        None, description=f"Only after a token exchange: `{ISSUED_TYPE}` (RFC 8693, 3)."
    )


class ServerMetadata(BaseModel):
    """RFC 8414, 2."""

    issuer: str = Field(description="The setting `ISSUER`.")
    token_endpoint: str = Field(description="URL of `POST /token`.")
    jwks_uri: str | None = Field(None, description="Absent with HS256, which has no public key.")
    revocation_endpoint: str = Field(description="URL of `POST /revoke`.")
    introspection_endpoint: str = Field(description="URL of `POST /introspect`.")
    service_documentation: str = Field(description="URL of the docs page.")
    scopes_supported: list[str] = Field(
        description="Scopes with a meaning here. Each user can have others."
    )
    response_types_supported: list[str] = Field(
        description="Empty: there is no authorization endpoint, only the token endpoint."
    )
    grant_types_supported: list[str] = Field(description="Values of `grant_type`.")
    token_endpoint_auth_methods_supported: list[str] = Field(
        description="`none`: clients are not registered. The others are for service accounts."
    )
    revocation_endpoint_auth_methods_supported: list[str] = Field(
        description="`none`: clients are not registered."
    )
