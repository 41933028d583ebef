"""Liveness and readiness probes."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from app.database import migrations
from app.database.engine import Database
from app.errors import UnavailableError
from app.http.error_responses import error_docs

router = APIRouter(tags=["Health"])


class Health(BaseModel):
    status: Literal["ok"] = Field("ok", examples=["ok"])


class NotReadyError(UnavailableError):
    error = "not_ready"
    message = "The database cannot be reached, or its schema is not this version's"


async def _require_ready(request: Request) -> None:
    """Check the connection to the database, and its schema. Signing keys are loaded at start."""
    database: Database = request.app.state.database
    try:
        await migrations.check(database.engine)
    except migrations.SchemaError as error:
        raise NotReadyError from error


@router.get("/healthz", operation_id="liveness", summary="Is the process alive?")
async def liveness() -> Health:
    """Answers as long as the process does. It touches nothing else."""
    return Health()


@router.get(
    "/readyz",
    operation_id="readiness",
    summary="Can the service do its work?",
    responses=error_docs(NotReadyError),
)
async def readiness(_: Annotated[None, Depends(_require_ready)]) -> Health:
    """Answers 200 when the database is reachable, its schema is current and a key can sign."""
    return Health()
