"""The API keys of any user, for administrators."""

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
from app.credentials.api_keys.router import NEEDS_SECOND_FACTOR
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
from app.errors import InvalidRequestError
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.security.rate_limits.errors import TooManyAttemptsError
from app.users.dependencies import ADMIN_CHANGE_ERRORS, ADMIN_ERRORS, CurrentAdmin, UserId, UsersDep
from app.users.errors import UserNotFoundError

router = APIRouter(prefix="/users/{user_id}/api-keys", tags=["Administration"])

_KEY_ERRORS = (InvalidRequestError, UserNotFoundError, ApiKeyNotFoundError)


@router.post(
    "",
    operation_id="createApiKeyOfUser",
    summary="Create an API key for a user",
    response_description="The key. It is not shown again.",
    status_code=status.HTTP_201_CREATED,
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS,
        InvalidRequestError,
        UserNotFoundError,
        *NEEDS_SECOND_FACTOR,
        TooManyApiKeysError,
        TooManyAttemptsError,
    ),
)
async def create_api_key_of_user(
    _: CurrentAdmin,
    user_id: UserId,
    new: NewApiKey,
    api_keys: ApiKeysDep,
    second_factor: RecentSecondFactorDep,
    context: ContextDep,
) -> ApiKeyCreated:
    """The key acts as the user. The user's audit log has an entry, and the user gets a mail if the
    service sends mail. `otp` is a code of the administrator."""
    await second_factor.require("api_key.create", new.otp)
    api_key, key = await api_keys.create(context, user_id, new)
    return ApiKeyCreated.of(api_key, context.now, key=key)


@router.get(
    "",
    operation_id="listApiKeysOfUser",
    summary="List the API keys of a user",
    response_description="A page of the user's keys.",
    responses=error_docs(*ADMIN_ERRORS, InvalidRequestError, UserNotFoundError),
)
async def list_api_keys_of_user(
    _: CurrentAdmin,
    user_id: UserId,
    query: Annotated[ApiKeyQuery, Query()],
    users: UsersDep,
    api_keys: ApiKeysDep,
    context: ContextDep,
) -> ApiKeyPage:
    """Newest first, without the keys themselves."""
    await users.get(context, user_id)
    page, further = query.paginate_by_time(await api_keys.list(context, user_id, query))
    return ApiKeyPage.of(page, context.now, further)


@router.get(
    "/{key_id}",
    operation_id="readApiKeyOfUser",
    summary="Get an API key of a user",
    response_description="The key, without its text.",
    responses=error_docs(*ADMIN_ERRORS, *_KEY_ERRORS),
)
async def read_api_key_of_user(
    _: CurrentAdmin,
    user_id: UserId,
    key_id: ApiKeyId,
    users: UsersDep,
    api_keys: ApiKeysDep,
    context: ContextDep,
) -> ApiKeyRecord:
    """Also a revoked or expired one, for 90 days."""
    await users.get(context, user_id)
    return ApiKeyRecord.of(await api_keys.get(context, user_id, key_id), context.now)


@router.patch(
    "/{key_id}",
    operation_id="changeApiKeyOfUser",
    summary="Change an API key of a user",
    response_description="The key after the change.",
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS,
        *_KEY_ERRORS,
        *NEEDS_SECOND_FACTOR,
        ApiKeyNotActiveError,
        TooManyAttemptsError,
    ),
)
async def change_api_key_of_user(  # noqa: PLR0913, PLR0917 - what the route depends on
    _: CurrentAdmin,
    user_id: UserId,
    key_id: ApiKeyId,
    change: ApiKeyChange,
    api_keys: ApiKeysDep,
    second_factor: RecentSecondFactorDep,
    context: ContextDep,
) -> ApiKeyRecord:
    """Omitted and null members do not change. A key never gets more scopes or a longer lifetime.
    Only a change of `networks` needs a second factor, if the administrator has one."""
    if change.networks is not None:
        await second_factor.require("api_key.update", change.otp)
    changed = await api_keys.update(context, user_id, key_id, change)
    return ApiKeyRecord.of(changed, context.now)


@router.delete(
    "/{key_id}",
    operation_id="revokeApiKeyOfUser",
    summary="Revoke an API key of a user",
    response_description="The key was revoked.",
    responses=error_docs(*ADMIN_CHANGE_ERRORS, *_KEY_ERRORS),
)
async def revoke_api_key_of_user(
    _: CurrentAdmin, user_id: UserId, key_id: ApiKeyId, api_keys: ApiKeysDep, context: ContextDep
) -> ApiKeyRecord:
    """Revokes the key and its access tokens permanently."""
    return ApiKeyRecord.of(await api_keys.revoke(context, user_id, key_id), context.now)


@router.post(
    "/{key_id}/rotate",
    operation_id="rotateApiKeyOfUser",
    summary="Replace an API key of a user",
    response_description="The new key. It is not shown again.",
    status_code=status.HTTP_201_CREATED,
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS,
        *_KEY_ERRORS,
        *NEEDS_SECOND_FACTOR,
        ApiKeyNotActiveError,
        ApiKeySuspendedError,
        ApiKeyRotatedError,
        TooManyAttemptsError,
    ),
)
async def rotate_api_key_of_user(  # noqa: PLR0913, PLR0917 - what the route depends on
    _: CurrentAdmin,
    user_id: UserId,
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
    api_key, key = await api_keys.rotate(context, user_id, key_id, overlap)
    return ApiKeyCreated.of(api_key, context.now, key=key)


@router.post(
    "/{key_id}/suspend",
    operation_id="suspendApiKeyOfUser",
    summary="Suspend an API key of a user",
    response_description="The key is suspended.",
    responses=error_docs(*ADMIN_CHANGE_ERRORS, *_KEY_ERRORS, ApiKeyNotActiveError),
)
async def suspend_api_key_of_user(
    _: CurrentAdmin, user_id: UserId, key_id: ApiKeyId, api_keys: ApiKeysDep, context: ContextDep
) -> ApiKeyRecord:
    """Revokes its access tokens at once. The key works again when it is resumed, which the user can
    do as well: disable the user to prevent that."""
    return ApiKeyRecord.of(await api_keys.suspend(context, user_id, key_id), context.now)


@router.post(
    "/{key_id}/resume",
    operation_id="resumeApiKeyOfUser",
    summary="Resume an API key of a user",
    response_description="The key works again.",
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS, *_KEY_ERRORS, ApiKeyNotActiveError, TooManyAttemptsError
    ),
)
async def resume_api_key_of_user(
    _: CurrentAdmin, user_id: UserId, key_id: ApiKeyId, api_keys: ApiKeysDep, context: ContextDep
) -> ApiKeyRecord:
    """The key works again. Its earlier access tokens stay revoked."""
    return ApiKeyRecord.of(await api_keys.resume(context, user_id, key_id), context.now)
