"""A FastMCP server. Start it with `uvicorn server:app --port 9000`."""

import os

from fastmcp import FastMCP
from fastmcp.server.dependencies import get_access_token
from starlette.middleware import Middleware

from hourpass import Guard
from hourpass.mcp import UserContext

guard = Guard(os.environ["HOURPASS_URL"])
mcp = FastMCP("tools")


@mcp.tool
def whoami() -> str:
    token = get_access_token()
    return token.claims["preferred_username"] if token else "nobody"


app = mcp.http_app(middleware=[Middleware(guard.middleware), Middleware(UserContext)])
