"""Ends what is still open when its token expires or is revoked: websockets, streams and requests.

A request that has no response yet when its token expires may still get one; a revocation ends it
with 401. An outage of the service ends nothing, because then the guard cannot tell.
"""

import asyncio
from contextlib import suppress

from hourpass.errors import GuardError
from hourpass.guard.asgi import POLICY_VIOLATION, ASGIApp, Message, Receive, Scope, Send, refuse
from hourpass.guard.open_credentials import OpenCredential, Validity

# Between two looks at a token. A revocation reaches the guard within a tenth of a second.
CHECK_SECONDS = 0.5
LAST_SEND_SECONDS = 1.0  # for a client that does not read


class OpenRequest:
    """One request or websocket with a token or key that was valid when it began."""

    def __init__(
        self, guard: Validity, credential: OpenCredential, scope: Scope, send: Send
    ) -> None:
        self._guard = guard
        self._credential = credential
        self._scope = scope
        self._send = send
        self._begun = ""  # the kind of response, once there is one
        self._is_complete = self._is_cancelled = False
        self._end: asyncio.Task[None] | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def run(self, app: ASGIApp, receive: Receive) -> None:
        task = asyncio.current_task()
        assert task
        self._task = task
        self._check_later()
        failure: BaseException | None = None
        try:
            await app(self._scope, receive, self._send_unless_ended)
        except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001 - raised again below
            failure = error
        self._timer.cancel()
        if self._renewal:
            self._renewal.cancel()
        self._is_complete = True
        # As in asyncio.timeout(): only our own cancellation stops here.
        others = task.uncancel() if self._is_cancelled else task.cancelling()
        if failure and (self._end is None or others):
            raise failure
        if self._end:
            await self._end

    def _check(self) -> None:
        if self._is_complete:
            return
        if self._credential.can_be_renewed:
            self._renewal = self._task.get_loop().create_task(self._renew())
        else:
            self._go_on_or_end(self._credential.find_error(can_expire=bool(self._begun)))

    async def _renew(self) -> None:
        error = await self._credential.renew(can_expire=bool(self._begun))
        if not self._is_complete:
            self._go_on_or_end(error)

    def _go_on_or_end(self, error: GuardError | None) -> None:
        if error:
            self._end_with(error)
        else:
            self._check_later()

    def _check_later(self) -> None:
        self._timer = self._task.get_loop().call_later(CHECK_SECONDS, self._check)

    def _end_with(self, error: GuardError) -> None:
        self._end = self._task.get_loop().create_task(self._send_end_and_cancel(error))

    async def _send_end_and_cancel(self, error: GuardError) -> None:
        """Tells the client first, because an app that runs in a thread may not stop at once."""
        with suppress(Exception):  # the client may be gone, or the app may be sending
            async with asyncio.timeout(LAST_SEND_SECONDS):
                await self._send_end(error)
        if not self._is_complete:
            self._is_cancelled = self._task.cancel()

    async def _send_end(self, error: GuardError) -> None:
        if self._begun == "websocket":
            reason = str(error)
            await self._send(
                {"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason}
            )
        elif self._begun:
            await self._send({"type": f"{self._begun}.body", "body": b""})
        else:
            await refuse(error, self._guard.refusal(error), self._scope, self._send)

    async def _send_unless_ended(self, message: Message) -> None:
        if self._end:
            raise OSError("The token is no longer valid")  # as after a disconnect
        kind = message["type"]
        if kind == "websocket.accept":
            self._begun = "websocket"
        elif kind.endswith("response.start"):
            self._begun = kind.removesuffix(".start")
        elif kind == "websocket.close" or (
            # A body, or an extension of ASGI that sends a file as one.
            kind.startswith(("http.response.", "websocket.http.response."))
            and self._begun
            and not message.get("more_body")
        ):
            self._is_complete = True
        await self._send(message)
