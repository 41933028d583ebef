from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class SessionInfo(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=["1c7a40a3e5b64dd2"])
    created_at: datetime
    last_used_at: datetime = Field(validation_alias="rotated_at")
    expires_at: datetime = Field(description="Moves forward with each use, up to a maximum.")
    address: str = Field(
        validation_alias="ip_address",
        description="IP address of the login.",
        examples=["203.0.113.9"],
    )
    user_agent: str = Field(
        description="User agent of the login.", examples=["python-httpx/0.28.1"]
    )


class SessionList(BaseModel):
    sessions: list[SessionInfo]


class SessionRevoked(BaseModel):
    message: str = Field("Session revoked", examples=["Session revoked"])
