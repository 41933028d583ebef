import hashlib

from fastapi import APIRouter, Request, Response

from app.tokens.dependencies import CurrentKeys
from app.tokens.schemas import PublicKeySet

router = APIRouter(tags=["Verification"])

# Shorter than KEY_ANNOUNCE_SECONDS, so that every cache knows a key before it signs.
MAX_AGE_SECONDS = 300


@router.get(
    "/.well-known/jwks.json",
    operation_id="listPublicKeys",
    summary="The keys that tokens are signed with",
    response_model=PublicKeySet,
    response_model_exclude_none=True,
    responses={304: {"description": "Not modified since the ETag sent as If-None-Match"}},
)
async def list_public_keys(
    request: Request, response: Response, keyring: CurrentKeys
) -> PublicKeySet | Response:
    """A JWK Set (RFC 7517) with the next key, the current one and those whose tokens still live.

    With HS256 it is empty: that secret has no public half, so ask the service about each token.
    """
    keys = keyring.public_jwks()
    kids = ",".join(key["kid"] for key in keys)
    headers = {
        "Cache-Control": f"public, max-age={MAX_AGE_SECONDS}",
        "ETag": f'"{hashlib.sha256(kids.encode()).hexdigest()[:16]}"',
    }
    # Also in a list, or weakened to W/"…" by a proxy that compresses (RFC 9110, 13.1.2).
    if headers["ETag"] in request.headers.get("If-None-Match", ""):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return PublicKeySet.model_validate({"keys": keys})
