"""Liveness and readiness checks for load balancers and orchestrators."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from app.database.readiness import Readiness
from app.errors import StartupError, UnavailableError
from app.http.error_responses import error_docs

router = APIRouter(tags=["Health"])


class Health(BaseModel):
    status: Literal["ok"] = Field("ok", description="Always `ok`.", examples=["ok"])


class NotReadyError(UnavailableError):
    error = "not_ready"
    message = "The database is unreachable, read-only, or has the schema of another version"


async def _require_ready(request: Request) -> None:
    """Check the database. The signing key needs no check: the service loads it when it starts."""
    state = request.app.state
    checks: Readiness = state.readiness
    try:
        await checks.check(state.database)
    except StartupError as error:
        raise NotReadyError from error


@router.get(
    "/healthz",
    operation_id="liveness",
    summary="Check the process",
    response_description="The process runs.",
)
async def liveness() -> Health:
    """Responds as long as the process runs. Does not use the database."""
    return Health()


@router.get(
    "/readyz",
    operation_id="readiness",
    summary="Check the database and the signing key",
    response_description="The service can do its work.",
    responses=error_docs(NotReadyError),
)
async def readiness(_: Annotated[None, Depends(_require_ready)]) -> Health:
    """Responds with 200 if the database can be read and written, its schema is current and there is
    a signing key. Asks the database at most once a second."""
    return Health()
