"""A FastMCP server that verifies tokens by itself. Start it with `python verifier.py 9000`."""

import os
import sys

from fastmcp import FastMCP

from hourpass import Guard
from hourpass.fastmcp import HourpassTokenVerifier

guard = Guard(os.environ["HOURPASS_URL"])
mcp = FastMCP("tools", auth=HourpassTokenVerifier(guard))
mcp.run("http", port=int(sys.argv[1]), show_banner=False)
