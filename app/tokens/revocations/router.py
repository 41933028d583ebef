from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from app.errors import InvalidRequestError
from app.http.error_responses import error_docs
from app.tokens.revocations.errors import CursorUnknownError
from app.tokens.revocations.feed import (
    HEARTBEAT_SECONDS,
    MAX_WAIT_SECONDS,
    FeedResponse,
    RevocationFeed,
)
from app.tokens.revocations.schemas import RevocationPage

MAX_CURSOR_LENGTH = 100


class _FeedRoute(APIRoute):
    """Answers valid requests without FastAPI's parsing. Otherwise a thousand guards that all ask
    again after a revocation would wait for one another."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET" and (query := _valid_query(scope["query_string"])):
            feed: RevocationFeed = scope["app"].state.revocation_feed
            await FeedResponse(feed, *query)(scope, receive, send)
        else:
            await super().handle(scope, receive, send)


def _valid_query(query_string: bytes) -> tuple[str | None, int] | None:
    """`after` and `wait`, or None if they may be invalid: FastAPI then validates them."""
    pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    query = dict(pairs)
    after, wait = query.pop("after", None), query.pop("wait", "0")
    is_valid = (
        len(pairs) <= 2
        and not query
        and (after is None or len(after) <= MAX_CURSOR_LENGTH)
        and (wait.isascii() and wait.isdecimal() and len(wait) <= 2)
        and int(wait) <= MAX_WAIT_SECONDS
    )
    return (after, int(wait)) if is_valid else None


router = APIRouter(tags=["Verification"], route_class=_FeedRoute)


@router.get(
    "/revocations",
    operation_id="listRevocations",
    summary="List revocations",
    response_description="The entries after the cursor, if any within `wait` seconds.",
    response_model=RevocationPage,
    responses=error_docs(CursorUnknownError, InvalidRequestError),
    description=f"""For APIs that verify tokens themselves: reject tokens with a listed value.

Start without `after` and read pages until `more` is false. Then send the last cursor as `after`,
with `wait`: the response arrives within 0.1 s of a revocation, or when the time is over. While you
wait, the service sends a space every {HEARTBEAT_SECONDS:.0f} s as a sign of life; JSON allows it.

After 410, keep the known revocations and start again without `after`.""",
)
async def list_revocations(
    request: Request,
    after: Annotated[
        str | None,
        Query(max_length=MAX_CURSOR_LENGTH, description="`cursor` of the previous page."),
    ] = None,
    wait: Annotated[
        int,
        Query(
            ge=0,
            le=MAX_WAIT_SECONDS,
            description="Seconds to wait for new revocations (long polling).",
        ),
    ] = 0,
) -> FeedResponse:
    return FeedResponse(request.app.state.revocation_feed, after, wait)
