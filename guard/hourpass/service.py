"""What is asked of the Hourpass service over HTTP. Whatever is not an answer is an outage."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import httpx

from hourpass.errors import ServiceUnavailableError

ANSWER_SECONDS = 2.0  # that any answer may take, besides those that it was asked to wait

# Waiting for more connections than these is an outage too: a flood must not pile up here.
_LIMITS = httpx.Limits(
    max_connections=16,
    # Closed well before the service would (uvicorn: 5 s), so that none is lost in mid-question.
    keepalive_expiry=2,
)


class OutageError(ServiceUnavailableError):
    """`cause` is for the log, and never quotes what was received."""

    def __init__(self, cause: str) -> None:
        super().__init__()
        self.cause = cause


class TooManyListenersError(OutageError):
    """The service answers, but lets nobody more wait for news."""


class CursorRefusedError(OutageError):
    """The feed is another one than that which was followed."""


class Page(NamedTuple):
    revoked: dict[str, float]  # value: until when it has to be known
    cursor: str
    more: bool


class Service:
    def __init__(self, url: httpx.URL, transport: httpx.BaseTransport | None) -> None:
        self._client = httpx.Client(
            base_url=url, transport=transport, timeout=ANSWER_SECONDS, limits=_LIMITS
        )

    def issuer(self) -> str:
        """RFC 8414. Of the addresses in there none is used: they are for clients elsewhere."""
        issuer = _json(self._get("/.well-known/oauth-authorization-server")).get("issuer")
        if not isinstance(issuer, str):
            raise OutageError("malformed metadata")
        return issuer

    def jwks(self) -> list[dict[str, Any]]:
        """RFC 7517, 5. Empty if the service signs with a shared secret."""
        keys = _json(self._get("/.well-known/jwks.json")).get("keys")
        if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
            raise OutageError("malformed JWK Set")
        return keys

    def revocations(self, after: str | None, wait: int) -> Page:
        """The next page of the feed, having waited for news if there is none yet.

        Raises CursorRefusedError and TooManyListenersError.
        """
        query = {"wait": str(wait), **({"after": after} if after else {})}
        response = self._ask("/revocations", query, timeout=wait + ANSWER_SECONDS)
        if response.status_code == 410 and after:
            raise CursorRefusedError("cursor refused")
        if response.status_code == 503 and wait:
            raise TooManyListenersError("too many listeners")
        page = _json(_ok(response))
        try:
            revoked = dict(_entries(page["revocations"]))
        except (KeyError, TypeError, ValueError):
            raise OutageError("malformed feed") from None
        cursor, more = page.get("cursor"), page.get("more")
        if not isinstance(cursor, str) or not isinstance(more, bool):
            raise OutageError("malformed feed")
        return Page(revoked, cursor, more)

    def vouches_for(self, token: str) -> bool:
        """Whether the token holds. The token has to be ASCII."""
        headers = {"Authorization": f"Bearer {token}"}
        response = self._ask("/verify", headers=headers)
        if response.status_code == 401:
            return False
        _ok(response)
        return True

    def close(self) -> None:
        self._client.close()

    def _get(self, path: str) -> httpx.Response:
        return _ok(self._ask(path))

    def _ask(
        self,
        path: str,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = ANSWER_SECONDS,
    ) -> httpx.Response:
        try:
            return self._client.get(path, params=query, headers=headers, timeout=timeout)
        except httpx.HTTPError as error:
            raise OutageError(type(error).__name__) from None
        except RuntimeError:  # httpx has no class of its own for it
            raise OutageError("closed meanwhile") from None


def _ok(response: httpx.Response) -> httpx.Response:
    if response.status_code != 200:
        raise OutageError(f"status {response.status_code}")
    return response


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        raise OutageError("not JSON") from None
    if not isinstance(answer, dict):
        raise OutageError("not a JSON object")
    return answer


def _entries(entries: Iterable[dict[str, Any]]) -> Iterable[tuple[str, float]]:
    for entry in entries:
        if not isinstance(value := entry["value"], str):
            raise TypeError("a value is a string")
        yield value, datetime.fromisoformat(entry["expires_at"]).timestamp()
