"""The OpenAPI document at /openapi.json, the docs page at /docs and the start page at /.

The service itself serves all their files, so they work without internet.
"""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from pydantic_core import to_json
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles

from app.errors import (
    ApiError,
    ContentTooLargeError,
    HeadersTooLargeError,
    InternalError,
    RequestTimeoutError,
    UnavailableError,
    UriTooLongError,
)
from app.http.addresses import public_path
from app.http.openapi import build_document

# Every call can return these. Documented once, since a caller can do little about them.
COMMON_ERRORS: tuple[type[ApiError], ...] = (
    RequestTimeoutError,
    ContentTooLargeError,
    UriTooLongError,
    HeadersTooLargeError,
    InternalError,
    UnavailableError,
)
_COMMON_ERRORS_LIST = "\n".join(
    f"- {error.status} `{error.error}`: {error.message}" for error in COMMON_ERRORS
)
INTRODUCTION = f"""\
1. Register with `POST /register-user`.
2. Press **Authorize** to log in on this page. Programs log in with `POST /token`.
3. Send the access token with each call: `Authorization: Bearer <token>`. This page does it for you.

Every error has the same JSON body: `error` is a stable code for programs, `message` is for people.

<details><summary>Errors that every call can return</summary>

{_COMMON_ERRORS_LIST}

After 503, repeat the request after `Retry-After` seconds.

</details>
"""

_FILES = files("app.http") / "static"


def install(app: FastAPI, issuer: str) -> None:
    page = (_FILES / "docs.html").read_text("utf-8")
    start_page = (_FILES / "index.html").read_text("utf-8")
    links = {
        "name": app.title,
        "version": app.version,
        "docs": public_path(issuer, "/docs"),
        "openapi": public_path(issuer, "/openapi.json"),
    }
    start_headers = {"Content-Security-Policy": _start_page_policy(start_page), "Vary": "Accept"}
    document = cache(lambda: to_json(app.openapi()))  # takes 30 ms, and anybody can ask for it

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build_document(app, issuer)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # the documented way to replace the schema

    @app.get("/", include_in_schema=False)
    async def start(request: Request) -> Response:
        if _prefers_json(request.headers.get("accept", "")):
            return JSONResponse(links, headers={"Vary": "Accept"})
        return HTMLResponse(start_page, headers=start_headers)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi_document() -> Response:
        return Response(document(), media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    assets = _Assets(directory=str(_FILES), packages=[("fastapi_swagger", "resources")])
    app.mount("/docs/assets", assets, "assets")


# Swagger UI sets styles on elements, and its images are data.
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
}


class _Assets(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"  # 304 until an upgrade changes the file
        return response


def _start_page_policy(html: str) -> str:
    """Allows the page's one style sheet, and nothing else."""
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _prefers_json(accept: str) -> bool:
    """True if the header (RFC 9110, 12.5.1) names JSON, and not HTML with the same preference."""
    qualities = {"application/json": 0.0, "text/html": 0.0}
    for entry in accept.split(","):
        media_type, *parameters = (part.strip().lower() for part in entry.split(";"))
        if media_type in qualities:
            weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
            qualities[media_type] = float(weight) if re.fullmatch(r"[01](\.\d*)?", weight) else 0.0
    return qualities["application/json"] > qualities["text/html"]
