"""Times in the query of GET /audit: at the edges of the calendar, and with an unencoded +."""

from urllib.parse import quote

import pytest
from httpx import AsyncClient

from tests.support.markers import on_sqlite
from tests.support.users import assert_problem, bearer

EDGES = {
    "0001-01-01T00:00:00+23:00": 1,
    "0001-01-01T00:00:00-23:59": 1,
    "0001-01-01T00:00:00": 1,
    "9999-12-31T23:59:59.999999-23:00": 0,
    "9999-12-31T23:59:59.999999+23:59": 0,
    "9999-12-31T23:59:59.999999Z": 0,
    "2026-11-23": 1,
    "2026-11-24": 0,
    "2026-11-22": 1,
    "2026-11-22t12:00:00z": 1,
    "2026-11-22 12:00:00": 1,
}
BEYOND = [
    "0000-01-01T00:00:00Z",
    "10000-01-01T00:00:00Z",
    "253402300800000000",
    "-1e300",
    "1e400",
    "nan",
    "inf",
    "9" * 400,
    "2026-02-30",
    # Numbers, which could be meant as anything.
    *("0", "2027", "20260101", "20260101000000", "-62135596800", "253402300799000", "1795461965.5"),
    *("+2027", "2027-01", "2027-W01", "2027-1-1", "202-07-01", "12026-01-01", "2026-11-2300"),
    *("\u0662\u0660\u0662\u0666-01-01", "2026-01-01T", "2026-01-01\n", " 2026-01-01"),
]


async def test_all_times_of_the_calendar_are_compared(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    headers = bearer(arthurs_token)
    for moment, is_before_now in EDGES.items():
        for name, is_found in (("since", is_before_now), ("until", not is_before_now)):
            with subtests.test(f"{name}={moment}"):
                query = {name: moment, "action": "login"}
                response = await client.get("/audit", params=query, headers=headers)
                assert response.status_code == 200, response.text
                assert len(response.json()["entries"]) == int(is_found)


@on_sqlite
async def test_other_times_are_rejected(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    for moment in BEYOND:
        with subtests.test(moment[:20]):
            path = f"/audit?since={quote(moment)}"
            response = await client.get(path, headers=bearer(arthurs_token))
            assert_problem(response, 422, "invalid_request")


@on_sqlite
async def test_a_plus_that_was_not_encoded_is_explained(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    headers = bearer(arthurs_token)
    for zone in ("+02:00", "+0200"):
        with subtests.test(zone):
            path = "/audit?action=login&until=2026-11-23T14:00:01"
            assert (await client.get(f"{path}%2B{zone[1:]}", headers=headers)).status_code == 200
            body = assert_problem(
                await client.get(f"{path}{zone}", headers=headers), 422, "invalid_request"
            )
            [problem] = body["fields"]
            assert problem["field"] == "until"
            assert "%2B" in problem["message"]
