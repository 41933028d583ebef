"""Where a request comes from: shown to the owner of a session."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request


@dataclass(frozen=True, slots=True)
class Caller:
    address: str
    user_agent: str


async def _caller(request: Request) -> Caller:
    address = request.client.host if request.client else ""
    return Caller(address, request.headers.get("user-agent", "")[:200])


CallerDep = Annotated[Caller, Depends(_caller)]
