from typing import Annotated

from fastapi import Depends, Request

from app.accounts.password_resets.service import PasswordResets


async def _password_resets(request: Request) -> PasswordResets:
    password_resets: PasswordResets = request.app.state.services.password_resets
    return password_resets


PasswordResetsDep = Annotated[PasswordResets, Depends(_password_resets)]
