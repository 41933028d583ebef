from typing import Annotated

from fastapi import Depends, Request

from app.accounts.registration.service import Registration


async def _registration(request: Request) -> Registration:
    registration: Registration = request.app.state.services.registration
    return registration


async def _open_registration(
    registration: Annotated[Registration, Depends(_registration)],
) -> Registration:
    """Raises RegistrationClosedError, before the body is read."""
    registration.require_open()
    return registration


RegistrationDep = Annotated[Registration, Depends(_open_registration)]
