from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from app.http.bodies import ConstantMessage


class SessionInfo(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str = Field(description="The session's id.", examples=["1c7a40a3e5b64dd2"])
    created_at: datetime = Field(description="When the user logged in.")
    last_used_at: datetime = Field(
        validation_alias="rotated_at", description="When the session was last refreshed."
    )
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
    sessions: list[SessionInfo] = Field(description="Sessions that have not ended.")


class SessionRevoked(BaseModel):
    message: ConstantMessage = "Session revoked"
