from typing import Annotated

from fastapi import Depends, Request

from app.audit.erasure import Erasure


async def _erasure(request: Request) -> Erasure:
    erasure: Erasure = request.app.state.services.erasure
    return erasure


ErasureDep = Annotated[Erasure, Depends(_erasure)]
