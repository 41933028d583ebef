"""The query of the feed: most are parsed without FastAPI, with the same result."""

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.tokens.revocations.router import _valid_query
from tests.support.markers import on_sqlite
from tests.support.users import assert_problem

QUICK: dict[bytes, tuple[str | None, int]] = {
    b"": (None, 0),
    b"wait=0": (None, 0),
    b"wait=30": (None, 30),
    b"after=x": ("x", 0),
    b"after=x&wait=5": ("x", 5),
    b"wait=5&after=%78": ("x", 5),
    b"after=" + b"x" * 100: ("x" * 100, 0),
}


@pytest.mark.parametrize("query", QUICK, ids=ascii)
def test_a_plain_query_is_read_at_once(query: bytes) -> None:
    assert _valid_query(query) == QUICK[query]


@pytest.mark.parametrize(
    "query",
    [
        b"wait=31",
        b"wait=-1",
        b"wait=",
        b"wait=1s",
        b"wait=030",
        b"wait=\xb2",
        b"wait=%D9%A1",  # an Arabic digit
        b"after=" + b"x" * 101,
        b"before=x",
        b"wait=1&wait=2&after=x",
    ],
    ids=ascii,
)
def test_any_other_query_is_validated_by_fastapi(query: bytes) -> None:
    assert _valid_query(query) is None


@on_sqlite
async def test_fastapi_accepts_other_queries_with_the_same_result(
    app: FastAPI, client: AsyncClient
) -> None:
    app.state.revocation_feed.max_listeners = 0  # so that a request that waits is rejected
    page = await client.get("/revocations")
    cursor = page.json()["cursor"]
    for query in ("x=1", "wait=%2B0", f"x=1&after={cursor}"):
        slow = await client.get(f"/revocations?{query}")
        assert (slow.status_code, slow.json()) == (200, page.json())
    for query in ("wait=1", "wait=%2B1", "wait=1&x=1"):
        refused = await client.get(f"/revocations?{query}")
        assert_problem(refused, 503, "temporarily_unavailable")


@on_sqlite
async def test_the_feed_is_read_only(client: AsyncClient) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert (await client.request(method, "/revocations")).status_code == 405
