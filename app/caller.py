"""Who calls, and from where: shown to the owner of a session, written beside every deed."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request


@dataclass(slots=True)
class Caller:
    address: str = ""
    user_agent: str = ""
    user_id: int | None = None  # once a bearer token has been verified, or a password


def caller_of(request: Request) -> Caller:
    """The same one for all of a request."""
    state = request.state
    if not hasattr(state, "caller"):
        address = request.client.host if request.client else ""
        user_agent = request.headers.get("user-agent", "")[:200]
        state.caller = Caller(address, user_agent)
    caller: Caller = state.caller
    return caller


async def _caller(request: Request) -> Caller:
    return caller_of(request)


CallerDep = Annotated[Caller, Depends(_caller)]
