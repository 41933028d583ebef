"""A small API behind the guard: it says who calls it."""

import os
from datetime import timedelta

from fastapi import FastAPI, Request

from hourpass import Guard

# A failover takes up to 25 seconds. By default, a guard rejects all tokens after 10 seconds without
# news, because others may be revoking tokens meanwhile. This one keeps working for half a minute:
# while the database fails over, nobody can revoke anything. The price is that an API which is cut
# off from Hourpass alone learns of revocations up to half a minute late.
guard = Guard(os.environ["HOURPASS_URL"], on_outage="trust", trust_for=timedelta(seconds=30))

app = FastAPI()
guard.protect(app, public=["/health"])


@app.get("/health")
async def health() -> str:
    return "ok"


@app.get("/whoami")
async def whoami(request: Request) -> dict[str, str]:
    return {"username": request.state.user.username}
