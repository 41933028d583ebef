from fastapi import APIRouter, Response, status

from app.accounts.service_accounts.dependencies import ServiceAccountsDep
from app.accounts.service_accounts.schemas import NewServiceAccount, ServiceAccount
from app.errors import InvalidRequestError
from app.http.addresses import public_path
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.tokens.dependencies import TokensDep
from app.tokens.errors import (
    InsufficientScopeError,
    InvalidTokenError,
    LimitedTokenError,
    MissingTokenError,
)
from app.users.dependencies import CurrentAdmin
from app.users.errors import UserExistsError

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
        **error_docs(
            MissingTokenError,
            InvalidTokenError,
            InsufficientScopeError,
            LimitedTokenError,
            InvalidRequestError,
            UserExistsError,
        ),
    },
)
async def create_service_account(
    _: CurrentAdmin,
    new: NewServiceAccount,
    service_accounts: ServiceAccountsDep,
    context: ContextDep,
    tokens: TokensDep,
    response: Response,
) -> ServiceAccount:
    """A user that is a program. It has no password and no e-mail address: create API keys for it.
    List, change, disable and delete it like other users."""
    account = await service_accounts.create(context, new.username, new.scopes)
    response.headers["Location"] = public_path(tokens.issuer, f"/users/{account.id}")
    return ServiceAccount.model_validate(account)
