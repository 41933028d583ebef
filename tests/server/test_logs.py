"""Logs: one line per request, in either format, and never a token, a password or an address."""

import json
import logging
import logging.config
import sys
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response
from uvicorn.config import LOGGING_CONFIG

from app.http import access_log
from app.http.access_log import JsonFormatter, TextFormatter
from app.settings import Settings
from tests.support.markers import on_sqlite
from tests.support.settings import make_settings
from tests.support.users import GALAHAD, LANCELOT, bearer

TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"

either_format = pytest.mark.parametrize(
    "formatter", [JsonFormatter(), TextFormatter()], ids=["JSON", "text"]
)


@pytest.fixture(autouse=True)
def _leave_logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def reconfigure(settings: Settings, **changes: str) -> None:
    """Capsys sees only what is logged after this."""
    access_log.configure(settings.model_copy(update=changes))


Expected = tuple[Response, str, str | None, int | None]


async def visit(client: AsyncClient) -> list[Expected]:
    """All kinds of calls: each answer, with the method, route and user that its line must show.
    The first of them registers the user, or says that there is one already."""
    registered = await client.post("/register-user", json=LANCELOT)
    user_id = registered.json()["user_id"]
    issued = await client.post("/token", json=LANCELOT)
    token = issued.json()["token"]
    wrong = {**LANCELOT, "password": GALAHAD["password"]}
    mixed_up = {**LANCELOT, "username": LANCELOT["password"], "email": LANCELOT["password"]}
    return [
        (registered, "POST", "/register-user", None),
        (issued, "POST", "/token", user_id),
        (await client.post("/token", data=LANCELOT), "POST", "/token", user_id),
        (await client.post("/token", json=wrong), "POST", "/token", None),
        (await client.post("/token", data=wrong), "POST", "/token", None),
        (await client.post("/register-user", json=mixed_up), "POST", "/register-user", None),
        (await client.post("/register-user", json=LANCELOT), "POST", "/register-user", None),
        (await client.get(f"/token_status/{token}"), "GET", "/token_status/{token}", user_id),
        (await client.get(f"/token_status/{token}x"), "GET", "/token_status/{token}", None),
        (await client.get(f"/token_status/{token}/x"), "GET", None, None),
        (await client.get(f"/{token}?token={token}"), "GET", None, None),
        (await client.get(f"/token_status/{token * 50}"), "GET", None, None),
        (await client.get("/me", headers=bearer(token)), "GET", "/me", user_id),
        (
            await client.delete("/remove-user/1", headers=bearer(token)),
            "DELETE",
            "/remove-user/{user_id}",
            user_id,
        ),
    ]


async def test_each_request_leaves_one_line_of_json(
    client: AsyncClient, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    for log_format in ("json", "auto"):
        reconfigure(settings, log_format=log_format)
        expected = await visit(client)
        access_log.request_log.flush()
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        requests = [line for line in lines if line["logger"] == "hourpass.request"]
        for line in requests:
            assert line.pop("ms") >= 0
            assert line.pop("time").endswith("+00:00")
        assert requests == [
            {
                "level": "info",
                "logger": "hourpass.request",
                "message": "request",
                "method": method,
                "route": route,
                "status": response.status_code,
                "user_id": user_id,
                "request_id": response.headers["x-request-id"],
            }
            for response, method, route, user_id in expected
        ]


@on_sqlite
async def test_each_request_leaves_one_line_of_text(
    client: AsyncClient, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    reconfigure(settings, log_format="text")
    expected = await visit(client)
    access_log.request_log.flush()
    lines = capsys.readouterr().err.splitlines()
    for response, method, route, user_id in expected:
        request_id = f" request_id={response.headers['x-request-id']}"
        (line,) = [line for line in lines if line.endswith(request_id) and " ms=" in line]
        assert f" request method={method} " in line
        assert f" status={response.status_code} " in line
        assert (f" route={route} " in line) == (route is not None)
        assert (f" user_id={user_id} " in line) == (user_id is not None)


async def test_no_log_line_of_a_whole_flow_contains_a_secret(
    client: AsyncClient, app: FastAPI, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    async def crash(token: str) -> None:
        raise RuntimeError(f"{token} {LANCELOT}")

    app.add_api_route("/crash/{token}", crash)
    for log_format in ("json", "text"):
        reconfigure(settings, log_format=log_format, log_level="debug")
        answers = await visit(client)
        token = answers[1][0].json()["token"]
        assert (await client.get(f"/crash/{token}")).status_code == 500
        access_log.request_log.flush()
        written = capsys.readouterr()
        assert "Unexpected error" in written.err
        _, payload, signature = token.split(".")
        for secret in (
            payload,
            signature,
            LANCELOT["password"],
            LANCELOT["email"],
            GALAHAD["password"],
            "$argon2id$",
        ):
            assert secret not in written.err + written.out


def record(message: str, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    return logging.getLogger("hourpass").makeRecord(
        "hourpass", level, __file__, 1, message, (), None, extra=extra
    )


@either_format
@pytest.mark.parametrize(
    "message",
    [
        pytest.param(f"refused {TOKEN}", id="after a space"),
        pytest.param(f"refused:\n{TOKEN}", id="after a line break"),
        pytest.param(f"refused:\t{TOKEN}", id="after a tab"),
        pytest.param(f"token={TOKEN}&grail=1", id="in a query"),
        pytest.param(f"token_{TOKEN}", id="after an underscore"),
        pytest.param(f'GET "/token_status/{TOKEN}" 200', id="in a path"),
        pytest.param("GET /token_status/c2lnbmF0dXJl HTTP/1.1", id="in a path and cut short"),
    ],
)
def test_a_token_in_a_log_line_is_removed(formatter: logging.Formatter, message: str) -> None:
    for line in (formatter.format(record(message)), formatter.format(record("", fact=message))):
        assert "[redacted]" in line
        assert not any(segment in line for segment in TOKEN.split("."))


def test_the_line_is_still_json_after_a_token_is_removed() -> None:
    message = 'GET /token_status/c2lnbmF0dXJl","level":"debug'
    line = json.loads(JsonFormatter().format(record(message)))
    assert line["level"] == "info"
    assert line["message"].startswith("GET /token_status/[redacted]")


@either_format
@pytest.mark.parametrize(
    "separator",
    ["\n", "\r", "\v", "\x85", "\u2028", "\x1b[1A"],
    ids=ascii,
)
def test_a_value_cannot_forge_a_log_line(formatter: logging.Formatter, separator: str) -> None:
    forged = f"galahad{separator}12:00:00 INFO    lancelot is innocent"
    for line in (formatter.format(record(forged)), formatter.format(record("", fact=forged))):
        assert "lancelot is innocent" in line
        assert line.isprintable()


@either_format
def test_an_exception_is_logged_by_its_types_and_places_alone(formatter: logging.Formatter) -> None:
    def draw_the_sword() -> None:
        raise ValueError("excalibur")

    try:
        try:
            draw_the_sword()
        except ValueError as error:
            error.add_note("excalibur")
            raise KeyError("excalibur") from error
    except KeyError:
        failed = record("Unexpected error", logging.ERROR)
        failed.exc_info = sys.exc_info()
    text = formatter.format(failed)
    assert "excalibur" not in text
    for part in ("KeyError", "caused by ValueError", "test_logs.py", "in draw_the_sword"):
        assert part in text


def test_uvicorns_access_log_is_silent_and_its_other_lines_look_like_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logging.config.dictConfig(LOGGING_CONFIG)  # as `uvicorn app.main:app` does
    logging.getLogger("uvicorn.access").propagate = True  # as it is without that configuration
    for _ in range(2):  # twice is no worse than once
        access_log.configure(make_settings("sqlite:///never-opened.db", log_format="json"))
    path = f"/token_status/{TOKEN}"
    logging.getLogger("uvicorn.access").info('%s - "%s %s" %d', "192.0.2.1", "GET", path, 200)
    logging.getLogger("uvicorn.error").warning("Cannot serve %s", path)
    access_log.request_log.flush()
    written = capsys.readouterr()
    (line,) = (written.out + written.err).splitlines()
    assert json.loads(line)["message"] == "Cannot serve /token_status/[redacted]"
