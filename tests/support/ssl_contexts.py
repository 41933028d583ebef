"""One SSL context for the HTTP clients of a process: reading the certificates of all authorities
takes longer than starting a service."""

import os
import ssl
from functools import cache
from typing import Any

import httpx
from httpx._transports import default as transports


@cache
def _trusting(_file: str | None, _directory: str | None) -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _create(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
    if verify is True and cert is None and trust_env:
        return _trusting(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    return httpx.create_ssl_context(verify, cert, trust_env)


def share() -> None:
    transports.create_ssl_context = _create  # type: ignore[attr-defined] # imported there
