"""The API keys of the caller. A program with an API key or a limited token cannot use these
routes."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Query, status

from app.credentials.api_keys.dependencies import ApiKeyId, ApiKeysDep
from app.credentials.api_keys.errors import (
    ApiKeyNotActiveError,
    ApiKeyNotFoundError,
    ApiKeyRotatedError,
    ApiKeySuspendedError,
    TooManyApiKeysError,
)
from app.credentials.api_keys.schemas import (
    ApiKeyChange,
    ApiKeyCreated,
    ApiKeyPage,
    ApiKeyQuery,
    ApiKeyRecord,
    ApiKeyRotation,
    NewApiKey,
)
from app.credentials.second_factors.dependencies import RecentSecondFactorDep
from app.credentials.second_factors.errors import (
    SecondFactorRequiredError,
    TooManyCodesError,
    WrongCodeError,
)
from app.errors import InvalidRequestError
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.security.rate_limits.errors import TooManyAttemptsError
from app.users.dependencies import OWNER_ERRORS, AccountOwner

router = APIRouter(prefix="/me/api-keys", tags=["My API keys"])

NEEDS_SECOND_FACTOR = (SecondFactorRequiredError, WrongCodeError, TooManyCodesError)

_KEY_ERRORS = (*OWNER_ERRORS, InvalidRequestError, ApiKeyNotFoundError)


@router.post(
    "",
    operation_id="createOwnApiKey",
    summary="Create an API key",
    response_description="The key. It is not shown again.",
    status_code=status.HTTP_201_CREATED,
    responses=error_docs(
        *OWNER_ERRORS,
        InvalidRequestError,
        *NEEDS_SECOND_FACTOR,
        TooManyApiKeysError,
        TooManyAttemptsError,
    ),
)
async def create_own_api_key(
    user: AccountOwner,
    new: NewApiKey,
    api_keys: ApiKeysDep,
    second_factor: RecentSecondFactorDep,
    context: ContextDep,
) -> ApiKeyCreated:
    """A program sends the key as a bearer token. It never has more rights than you have, and cannot
    use `/me` as you do. You can have 50 keys."""
    await second_factor.require("api_key.create", new.otp)
    api_key, key = await api_keys.create(context, user.id, new, second_factor.token_version)
    return ApiKeyCreated.of(api_key, context.now, key=key)


@router.get(
    "",
    operation_id="listOwnApiKeys",
    summary="List my API keys",
    response_description="A page of your keys.",
    responses=error_docs(*OWNER_ERRORS, InvalidRequestError),
)
async def list_own_api_keys(
    user: AccountOwner,
    query: Annotated[ApiKeyQuery, Query()],
    api_keys: ApiKeysDep,
    context: ContextDep,
) -> ApiKeyPage:
    """Newest first, without the keys themselves."""
    page, further = query.paginate_by_time(await api_keys.list(context, user.id, query))
    return ApiKeyPage.of(page, context.now, further)


@router.get(
    "/{key_id}",
    operation_id="readOwnApiKey",
    summary="Get one of my API keys",
    response_description="The key, without its text.",
    responses=error_docs(*_KEY_ERRORS),
)
async def read_own_api_key(
    user: AccountOwner, key_id: ApiKeyId, api_keys: ApiKeysDep, context: ContextDep
) -> ApiKeyRecord:
    """Also a revoked or expired one, for 90 days."""
    return ApiKeyRecord.of(await api_keys.get(context, user.id, key_id), context.now)


@router.patch(
    "/{key_id}",
    operation_id="changeOwnApiKey",
    summary="Change one of my API keys",
    response_description="The key after the change.",
    responses=error_docs(
        *_KEY_ERRORS, *NEEDS_SECOND_FACTOR, ApiKeyNotActiveError, TooManyAttemptsError
    ),
)
async def change_own_api_key(  # noqa: PLR0913, PLR0917 - what the route depends on
    user: AccountOwner,
    key_id: ApiKeyId,
    change: ApiKeyChange,
    api_keys: ApiKeysDep,
    second_factor: RecentSecondFactorDep,
    context: ContextDep,
) -> ApiKeyRecord:
    """Omitted and null members do not change. A key never gets more scopes or a longer lifetime:
    create another one. Only a change of `networks` needs a second factor, if you have one."""
    if change.networks is not None:
        await second_factor.require("api_key.update", change.otp)
    changed = await api_keys.update(context, user.id, key_id, change, second_factor.token_version)
    return ApiKeyRecord.of(changed, context.now)


@router.delete(
    "/{key_id}",
    operation_id="revokeOwnApiKey",
    summary="Revoke one of my API keys",
    response_description="The key was revoked.",
    responses=error_docs(*_KEY_ERRORS),
)
async def revoke_own_api_key(
    user: AccountOwner, key_id: ApiKeyId, api_keys: ApiKeysDep, context: ContextDep
) -> ApiKeyRecord:
    """Revokes the key and its access tokens permanently."""
    return ApiKeyRecord.of(await api_keys.revoke(context, user.id, key_id), context.now)


@router.post(
    "/{key_id}/rotate",
    operation_id="rotateOwnApiKey",
    summary="Replace one of my API keys",
    response_description="The new key. It is not shown again.",
    status_code=status.HTTP_201_CREATED,
    responses=error_docs(
        *_KEY_ERRORS,
        *NEEDS_SECOND_FACTOR,
        ApiKeyNotActiveError,
        ApiKeySuspendedError,
        ApiKeyRotatedError,
        TooManyAttemptsError,
    ),
)
async def rotate_own_api_key(  # noqa: PLR0913, PLR0917 - what the route depends on
    user: AccountOwner,
    key_id: ApiKeyId,
    api_keys: ApiKeysDep,
    second_factor: RecentSecondFactorDep,
    context: ContextDep,
    rotation: Annotated[ApiKeyRotation, Body(default_factory=ApiKeyRotation)],
) -> ApiKeyCreated:
    """The new key has the name, label, scopes, networks and lifetime of the old one. The old key
    works for `overlap_seconds` more, but never longer than before."""
    await second_factor.require("api_key.rotate", rotation.otp)
    overlap = timedelta(seconds=rotation.overlap_seconds)
    api_key, key = await api_keys.rotate(
        context, user.id, key_id, overlap, second_factor.token_version
    )
    return ApiKeyCreated.of(api_key, context.now, key=key)


@router.post(
    "/{key_id}/suspend",
    operation_id="suspendOwnApiKey",
    summary="Suspend one of my API keys",
    response_description="The key is suspended.",
    responses=error_docs(*_KEY_ERRORS, ApiKeyNotActiveError),
)
async def suspend_own_api_key(
    user: AccountOwner, key_id: ApiKeyId, api_keys: ApiKeysDep, context: ContextDep
) -> ApiKeyRecord:
    """Revokes its access tokens at once. The key works again after
    `POST /me/api-keys/{key_id}/resume`."""
    return ApiKeyRecord.of(await api_keys.suspend(context, user.id, key_id), context.now)


@router.post(
    "/{key_id}/resume",
    operation_id="resumeOwnApiKey",
    summary="Resume one of my API keys",
    response_description="The key works again.",
    responses=error_docs(*_KEY_ERRORS, ApiKeyNotActiveError, TooManyAttemptsError),
)
async def resume_own_api_key(
    user: AccountOwner,
    key_id: ApiKeyId,
    api_keys: ApiKeysDep,
    context: ContextDep,
) -> ApiKeyRecord:
    """The key works again. Its earlier access tokens stay revoked."""
    return ApiKeyRecord.of(await api_keys.resume(context, user.id, key_id), context.now)
