"""Logins from given IP addresses, and small limits on them."""

from dataclasses import replace

import pytest
from fastapi import FastAPI
from httpx import Response

from app.security.rate_limits import limits, service
from app.security.rate_limits.limits import Limit
from tests.support.apps import client_of
from tests.support.users import LANCELOT, Person

WRONG = {**LANCELOT, "password": "wrong"}
HOME, ELSEWHERE, PROXY = "192.0.2.7", "198.51.100.9", "203.0.113.1"

# Small, so that a test needs few logins. They differ from each other.
SMALL_LIMITS = {"ACCOUNT": 2, "ACCOUNT_AT_ADDRESS": 4, "ADDRESS": 5}


def set_small_limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, Limit]:
    small: dict[str, Limit] = {}
    for name, allowed in SMALL_LIMITS.items():
        small[name] = replace(getattr(limits, name), allowed=allowed)
        monkeypatch.setattr(service, name, small[name])
    return small


async def log_in_at(app: FastAPI, address: str, person: Person, **headers: str) -> Response:
    async with client_of(app, address) as client:
        return await client.post("/token", json=dict(person), headers=headers)


async def statuses(app: FastAPI, address: str, person: Person, times: int) -> list[int]:
    return [(await log_in_at(app, address, person)).status_code for _ in range(times)]


def nobody(number: int) -> Person:
    return {"username": f"nobody{number}", "password": "wrong"}
