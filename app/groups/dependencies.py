from typing import Annotated

from fastapi import Depends, Path, Request

from app.groups.service import Groups


async def _groups(request: Request) -> Groups:
    groups: Groups = request.app.state.services.groups
    return groups


GroupsDep = Annotated[Groups, Depends(_groups)]
GroupPath = Annotated[
    str,
    Path(
        description="The group's name, percent-encoded, in any case.",
        examples=["fraud-team"],
    ),
]
