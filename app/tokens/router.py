import hashlib

from fastapi import APIRouter, Request, Response

from app.tokens.dependencies import CurrentKeys
from app.tokens.schemas import PublicKeySet

router = APIRouter(tags=["Verification"])

# Shorter than KEY_ANNOUNCE_SECONDS, so that all caches have a key before it signs.
MAX_AGE_SECONDS = 300

_ETAG = {
    "description": "Changes with the keys. Send it as `If-None-Match`.",
    "schema": {"type": "string"},
    "example": '"5f0c1d2e3a4b5c6d"',
}


@router.get(
    "/.well-known/jwks.json",
    operation_id="listPublicKeys",
    summary="Get the public keys",
    response_description="The public keys.",
    response_model=PublicKeySet,
    response_model_exclude_none=True,
    responses={
        200: {"headers": {"ETag": _ETAG}},
        304: {
            "description": "Not modified since the ETag in `If-None-Match`",
            "headers": {"ETag": _ETAG},
        },
    },
)
async def list_public_keys(
    request: Request, response: Response, keyring: CurrentKeys
) -> PublicKeySet | Response:
    """A JWK Set (RFC 7517): the current signing key, the next one, and older ones with tokens that
    are still valid.

    It is empty with HS256, which has no public key: check tokens with `GET /verify` instead.
    """
    keys = keyring.public_jwks()
    kids = ",".join(key["kid"] for key in keys)
    headers = {
        "Cache-Control": f"public, max-age={MAX_AGE_SECONDS}",
        "ETag": f'"{hashlib.sha256(kids.encode()).hexdigest()[:16]}"',
    }
    # Also matches in a list, or weakened to W/"…" by a proxy that compresses (RFC 9110, 13.1.2).
    if headers["ETag"] in request.headers.get("If-None-Match", ""):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return PublicKeySet.model_validate({"keys": keys})
