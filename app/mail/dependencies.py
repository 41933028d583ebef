from typing import Annotated

from fastapi import Depends, Request

from app.mail.service import Mail


async def _mail(request: Request) -> Mail:
    mail: Mail = request.app.state.services.mail
    return mail


MailDep = Annotated[Mail, Depends(_mail)]
