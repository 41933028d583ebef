"""A small API behind the guard: it says who calls it."""

import os
from datetime import timedelta

from fastapi import FastAPI, Request, Response

from hourpass import Guard

# A failover takes up to 25 seconds. By default, a guard rejects all tokens after 10 seconds without
# news, because others may be revoking tokens meanwhile. This one keeps working for half a minute:
# while the database fails over, nobody can revoke anything. The price is that an API which is cut
# off from Hourpass alone learns of revocations up to half a minute late.
guard = Guard(os.environ["HOURPASS_URL"], on_outage="trust", trust_for=timedelta(seconds=30))

app = FastAPI()
guard.protect(app, public=["/readyz"])


# For the load balancer. A guard that has not reached Hourpass yet rejects all tokens with 503, and
# so does one that was without news for longer than `trust_for`.
@app.get("/readyz")
async def readyz(response: Response) -> dict[str, bool]:
    response.status_code = 200 if guard.is_ready else 503
    return {"is_ready": guard.is_ready}


@app.get("/whoami")
async def whoami(request: Request) -> dict[str, str]:
    return {"username": request.state.user.username}
