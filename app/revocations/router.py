from typing import Annotated

from fastapi import APIRouter, Query, Request

from app.database import Database
from app.error_responses import documented
from app.revocations.errors import CursorUnknownError, TooManyListenersError
from app.revocations.schemas import RevocationEntry, RevocationPage
from app.revocations.service import Revocations, Watch
from app.tokens.dependencies import NowDep, TokensDep

router = APIRouter(tags=["Verification"])

MAX_WAIT_SECONDS = 20


@router.get(
    "/revocations",
    operation_id="listRevocations",
    summary="What was revoked and has not expired yet",
    responses=documented(CursorUnknownError, TooManyListenersError),
)
async def list_revocations(
    request: Request,
    tokens: TokensDep,
    now: NowDep,
    after: Annotated[
        str | None, Query(max_length=40, description="The cursor of the page before.")
    ] = None,
    wait: Annotated[
        int, Query(ge=0, le=MAX_WAIT_SECONDS, description="Seconds to wait if there is no news.")
    ] = 0,
) -> RevocationPage:
    """For APIs that verify tokens themselves: refuse tokens that carry a value listed here.

    Begin without `after`, read pages until `more` is false, then ask again with the last cursor
    and `wait`: the answer comes within a tenth of a second of a revocation, or after `wait`.
    Entries stay for as long as a token lives, so that a listener that was away catches up by
    going on from its cursor.
    """
    database: Database = request.app.state.database
    watch: Watch = request.app.state.watch

    async def read() -> RevocationPage:
        # A session per reading, not per request: nobody waits with a connection in hand.
        async with database.session() as session:
            rows, cursor, more = await Revocations(session, tokens.lifetime).read(after, now)
        entries = [RevocationEntry.model_validate(row) for row in rows]
        return RevocationPage(revocations=entries, cursor=cursor, more=more)

    page = await read()
    if wait and not page.revocations:
        await watch.wait_beyond(page.cursor, wait)
        page = await read()
    return page
