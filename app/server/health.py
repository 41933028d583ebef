"""Liveness and readiness checks for load balancers and orchestrators."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from app.database import migrations
from app.database.engine import Database
from app.errors import UnavailableError
from app.http.error_responses import error_docs

router = APIRouter(tags=["Health"])


class Health(BaseModel):
    status: Literal["ok"] = Field("ok", description="Always `ok`.", examples=["ok"])


class NotReadyError(UnavailableError):
    error = "not_ready"
    message = "The database is unreachable or has the schema of another version"


async def _require_ready(request: Request) -> None:
    """Check the connection and the schema. A signing key was loaded before the first request."""
    database: Database = request.app.state.database
    try:
        await migrations.check(database.engine)
    except migrations.SchemaError as error:
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
    """Responds with 200 if the database is reachable, its schema is current and there is a signing
    key."""
    return Health()
