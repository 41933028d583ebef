"""The HTTP response to a refused request, the same in every framework."""

import json
import logging
from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

from hourpass.errors import GuardError, InsufficientScopeError

RefusalBody = Callable[[GuardError], Any]

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{status}</title>
<h1>{status}</h1><p>{message}.</p></html>
"""

_log = logging.getLogger("hourpass.guard")


class Refusal(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Refusals:
    """`on_refusal` returns what becomes the JSON of a response, instead of `default_body()`. With
    `html`, clients that accept HTML get a small page."""

    def __init__(self, on_refusal: RefusalBody | None, *, html: bool) -> None:
        self._on_refusal = on_refusal
        self._html = html

    def response(self, error: GuardError, accept: str) -> Refusal:
        """`accept` is the request's `Accept` header."""
        if self._html and "text/html" in accept.lower():
            page = _PAGE.format(status=error.status, message=escape(str(error)))
            body, media_type = page.encode(), "text/html; charset=utf-8"
        else:
            body, media_type = self._json(error), "application/json"
        headers = {"Content-Type": media_type, "Content-Length": str(len(body)), **error.headers()}
        return Refusal(error.status, headers, body)

    def _json(self, error: GuardError) -> bytes:
        if self._on_refusal:
            try:
                return json.dumps(self._on_refusal(error)).encode()
            except Exception as failure:  # noqa: BLE001 - the request is refused all the same
                _log.error("on_refusal raised %s", type(failure).__name__)
        return json.dumps(default_body(error)).encode()


def default_body(error: GuardError) -> dict[str, str]:
    """`error` is as in the service's error bodies, and `code` is the same. A 403 has `scope`: what
    the request needs."""
    body = {"message": str(error), "error": error.code, "code": error.code}
    if isinstance(error, InsufficientScopeError) and error.scope:
        body["scope"] = error.scope
    return body
