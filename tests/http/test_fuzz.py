"""Whatever is sent, the service answers as its OpenAPI document says, and never with a 500.

Schemathesis makes the requests, valid and invalid, from the document; the same ones on every run.
On SQLite only: the databases behave alike, and what is tried here is the edge.
"""

import copy
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import cycle
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.generation.meta import CoveragePhaseData

from app.http.docs_page import COMMON_ERRORS
from app.main import app as default_app
from app.tokens.revocations.feed import MAX_WAIT_SECONDS
from tests.support.service_process import serving
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, bearer

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SUBJECTS = 20
FAR_AWAY = 4_815_162_342  # above any number that is likely to be tried


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Users 1 to 20 are there to be disabled and removed. The three who call have far higher ids,
    so that the administrator does not remove itself by accident."""
    database = tmp_path_factory.mktemp("fuzz") / "hourpass.db"
    with serving(f"sqlite:///{database}", LOG_LEVEL="error") as base_url:
        for number in range(SUBJECTS):
            register(base_url, {**LANCELOT, "username": f"subject {number}"})
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("UPDATE sqlite_sequence SET seq = ?", [FAR_AWAY])
            connection.commit()
        assert register(base_url, ARTHUR) == FAR_AWAY + 1
        register(base_url, LANCELOT)
        register(base_url, GALAHAD)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("UPDATE users SET is_admin = 1 WHERE username = 'arthur'")
            connection.commit()
        yield base_url
        # Still there, though he may have to wait: wrong passwords were tried with his token.
        assert httpx.post(f"{base_url}/token", json=ARTHUR).status_code in (200, 429)


def register(base_url: str, person: dict[str, str]) -> int:
    user_id: int = httpx.post(f"{base_url}/register-user", json=person).json()["user_id"]
    return user_id


def bearer_of(base_url: str, person: dict[str, str]) -> dict[str, str]:
    return bearer(httpx.post(f"{base_url}/token", json=person).json()["token"])


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """A connection for all requests, and no search for proxies: half of the time otherwise."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture(scope="module")
def callers(base_url: str) -> Iterator[Iterator[dict[str, str]]]:
    """The headers of those who send one request each, by turns. Mostly an administrator: others are
    refused before the service looks at much of the request."""
    administrator, user = bearer_of(base_url, ARTHUR), bearer_of(base_url, LANCELOT)
    yield cycle([administrator, administrator, user, administrator, administrator, {}])
    for headers in (administrator, user):  # otherwise most of what was tried was only a 401
        assert httpx.get(f"{base_url}/me", headers=headers).status_code == 200


@pytest.fixture(scope="module")
def logged_out(base_url: str) -> dict[str, str]:
    """The headers of a user who may log out everywhere."""
    return bearer_of(base_url, GALAHAD)


def with_common_errors(document: dict[str, Any]) -> dict[str, Any]:
    """The document names them once, in its introduction. Schemathesis looks at the operations."""
    document = copy.deepcopy(document)
    for methods in document["paths"].values():
        for operation in methods.values():
            for error in COMMON_ERRORS:
                content = {
                    "application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}
                }
                response = {"description": error.message, "content": content}
                operation["responses"].setdefault(str(error.status), response)
    return document


@pytest.fixture
def document(request: pytest.FixtureRequest) -> schemathesis.BaseSchema:
    # Schemathesis 4.32 reads what pytest 9.2 has no longer.
    request.node._nodeid = request.node.nodeid
    return schemathesis.openapi.from_dict(with_common_errors(default_app.openapi()))


# Not from the document itself, which takes seconds: each test process would do so when it imports
# this file. An operation is a subtest.
api = schemathesis.pytest.from_fixture("document")


def needs_token(context: Any) -> bool:
    return bool(context.operation.definition.raw["security"])


@pytest.fixture(scope="module")
def tried() -> Counter[tuple[Any, ...]]:
    """How many invalid requests were made, by operation and by what is wrong with them."""
    return Counter()


def is_repeated(case: schemathesis.Case[Any], tried: Counter[tuple[Any, ...]]) -> bool:
    """Whether two such requests got the same refusal, of which an administrator has sent one.
    Schemathesis tries all other types for each parameter, and all other methods for each path."""
    meta = case.meta
    data = meta.phase.data if meta and meta.generation.mode.is_negative else None
    if not isinstance(data, CoveragePhaseData):
        return False
    kind = case.operation.label, data.scenario, data.location, data.parameter
    tried[kind] += 1
    return tried[kind] > 2


bounded = settings(
    max_examples=2,  # beside some thirty for each operation that cover its schema systematically
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),  # some of them measure time
)


@api.exclude(needs_token).parametrize()
@bounded
def test_what_is_open_to_all_answers_as_documented(
    case: schemathesis.Case[Any],
    base_url: str,
    session: requests.Session,
    tried: Counter[tuple[Any, ...]],
) -> None:
    if is_repeated(case, tried):
        return
    query: Any = case.query
    if isinstance(query, dict) and query.get("wait") in range(1, MAX_WAIT_SECONDS + 1):
        query["wait"] = 0  # as valid, and nobody publishes what it would wait for
    case.call_and_validate(base_url=base_url, session=session, checks=CHECKS)


@api.include(needs_token).parametrize()
@bounded
def test_what_needs_a_token_answers_as_documented(
    case: schemathesis.Case[Any],
    base_url: str,
    session: requests.Session,
    callers: Iterator[dict[str, str]],
    logged_out: dict[str, str],
    tried: Counter[tuple[Any, ...]],
) -> None:
    if is_repeated(case, tried):
        return
    headers = logged_out if case.path == "/me/logout-everywhere" else next(callers)
    case.call_and_validate(base_url=base_url, session=session, headers=headers, checks=CHECKS)
