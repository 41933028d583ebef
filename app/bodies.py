"""What every request body has in common. Knows no capability."""

from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic_core import CoreSchema


class RequestBody(BaseModel):
    """A body whose schema declares no `default`.

    Generated clients send declared defaults. A client that is told to change one member of a user
    would then change others too. Descriptions say what a member means when it is left out.
    """

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler(core_schema)
        for member in handler.resolve_ref_schema(schema).get("properties", {}).values():
            member.pop("default", None)
        return schema


class Change(RequestBody):
    """The body of a PATCH. Members that are left out or null stay as they are."""

    model_config = ConfigDict(extra="forbid")

    def changes(self) -> dict[str, Any]:
        """The members that are to change. An empty text takes away what the member names."""
        given = {name: value for name, value in self if value is not None}
        return {name: None if value == "" else value for name, value in given.items()}
