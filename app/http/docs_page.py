"""The OpenAPI document, and the interactive page at /docs, from files that the service itself
serves: no internet needed."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from pydantic_core import to_json
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

# The page carries one inline script, FastAPI's; naming its digest keeps every other one out.
_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def install(app: FastAPI) -> None:
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=app.title,
        swagger_js_url="docs/assets/swagger-ui-bundle.js",
        swagger_css_url="docs/assets/swagger-ui.css",
        swagger_favicon_url="docs/assets/favicon-32x32.png",
        # Persisted would be the token and, beside it, the password as it was typed.
        swagger_ui_parameters={"persistAuthorization": False, "tryItOutEnabled": True},
    ).body
    html = bytes(page).decode()
    headers = {"Content-Security-Policy": _policy(html), "Cache-Control": "no-cache"}

    document = cache(lambda: to_json(app.openapi()))  # 30 ms, which anybody can ask for

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Response(document(), media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)

    assets = files("fastapi_swagger") / "resources"
    app.mount("/docs/assets", _Assets(directory=str(assets)), "assets")


class _Assets(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "public, max-age=86400"
        return response


def _policy(html: str) -> str:
    digests = [
        "'sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'"
        for script in _INLINE_SCRIPT.findall(html)
    ]
    return (
        f"default-src 'self'; script-src 'self' {' '.join(digests)}; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
    )
