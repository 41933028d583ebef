from fastapi import APIRouter, Response, status

from app.accounts.service_accounts.dependencies import ServiceAccountsDep
from app.accounts.service_accounts.schemas import NewServiceAccount, ServiceAccountRecord
from app.credentials.api_keys.admin_router import create_api_key_of_user
from app.credentials.api_keys.dependencies import ApiKeysDep
from app.credentials.api_keys.errors import TooManyApiKeysError
from app.credentials.api_keys.router import NEEDS_SECOND_FACTOR
from app.credentials.api_keys.schemas import ApiKeyCreated, NewApiKey
from app.credentials.second_factors.dependencies import RecentSecondFactorDep
from app.errors import InvalidRequestError
from app.http.addresses import public_path
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.security.rate_limits.errors import TooManyAttemptsError
from app.tokens.dependencies import TokensDep
from app.users.dependencies import ADMIN_CHANGE_ERRORS, CurrentAdmin, UserId
from app.users.errors import UserExistsError, UserNotFoundError

router = APIRouter(tags=["Administration"])


@router.post(
    "/service-accounts",
    operation_id="createServiceAccount",
    summary="Create a service account",
    response_description="The service account was created.",
    status_code=status.HTTP_201_CREATED,
    responses={
        201: {
            "headers": {
                "Location": {
                    "description": "Path of the account.",
                    "schema": {"type": "string"},
                    "example": "/users/10",
                }
            }
        },
        **error_docs(*ADMIN_CHANGE_ERRORS, InvalidRequestError, UserExistsError),
    },
)
async def create_service_account(
    _: CurrentAdmin,
    new: NewServiceAccount,
    service_accounts: ServiceAccountsDep,
    context: ContextDep,
    tokens: TokensDep,
    response: Response,
) -> ServiceAccountRecord:
    """A user that is a program. It has no password and no e-mail address: create API keys for it.
    List, change, disable and delete it like other users."""
    account = await service_accounts.create(context, new.username, new.scopes)
    response.headers["Location"] = public_path(tokens.issuer, f"/users/{account.id}")
    return ServiceAccountRecord.model_validate(account)


@router.post(
    "/service-accounts/{user_id}/api-keys",
    operation_id="createApiKeyOfServiceAccount",
    summary="Create an API key for a service account",
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
async def create_api_key_of_service_account(  # noqa: PLR0913, PLR0917 - what the route depends on
    admin: CurrentAdmin,
    user_id: UserId,
    new: NewApiKey,
    service_accounts: ServiceAccountsDep,
    api_keys: ApiKeysDep,
    second_factor: RecentSecondFactorDep,
    context: ContextDep,
) -> ApiKeyCreated:
    """As `POST /users/{user_id}/api-keys`, but only for service accounts. List and change the key
    below `/users/{user_id}/api-keys`."""
    account = await service_accounts.get(context, user_id)
    return await create_api_key_of_user(admin, account.id, new, api_keys, second_factor, context)
