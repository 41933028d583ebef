"""Tokens that are for less than the account."""

from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI

from app.tokens.jwt import AccessTokenRequest
from tests.support.users import claims_of

KEY_ID = "5dKq0aZ3"


def token_of_key(
    app: FastAPI, token: str, scope: str, now: datetime | None = None, **changes: Any
) -> str:
    """One like those that the service issues for an API key of the user of `token`."""
    claims = claims_of(token)
    request = AccessTokenRequest(
        subject=claims["sub"],
        username=claims["preferred_username"],
        token_version=claims["epoch"],
        scope=scope,
        authenticated_at=datetime.fromtimestamp(claims["auth_time"], UTC),
        **{"session": f"{KEY_ID}.7", "client_id": KEY_ID, "is_limited": True, **changes},
    )
    encoded: str = app.state.tokens.encode(request, now or app.state.clock())
    return encoded
