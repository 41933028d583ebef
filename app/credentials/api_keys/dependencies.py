from typing import Annotated

from fastapi import Depends, Path, Request

from app.credentials.api_keys.service import ApiKeys
from hourpass.api_keys import ID_LENGTH

ApiKeyId = Annotated[
    str,
    Path(
        pattern=f"^[0-9A-Za-z]{{{ID_LENGTH}}}$",
        description="The key's id: the 8 characters after `hp_`.",
        examples=["7bQk2ZpX"],
    ),
]


async def _api_keys(request: Request) -> ApiKeys:
    api_keys: ApiKeys = request.app.state.services.api_keys
    return api_keys


ApiKeysDep = Annotated[ApiKeys, Depends(_api_keys)]
