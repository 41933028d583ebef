from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Json


class AuditEntry(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int = Field(examples=[512])
    at: datetime
    action: str = Field(examples=["user.disable"])
    actor_id: int | None = Field(description="Who did it, if it was a user.", examples=[1])
    subject_id: int | None = Field(description="To which user.", examples=[10])
    succeeded: bool
    address: str | None = Field(examples=["192.0.2.7"])
    user_agent: str | None = Field(examples=["curl/8.5.0"])
    request_id: str | None = Field(examples=["8b8e6d5bb1-7"])
    details: Annotated[dict[str, str], Json] = Field(examples=[{}])


class AuditPage(BaseModel):
    entries: list[AuditEntry]
    next_cursor: str | None = Field(
        description="Ask with it as `cursor` for what came before; null at the end.",
        examples=["463"],
    )
