"""gRPC servers with the guard, both asyncio's and the threaded one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from grpc import aio

from hourpass import Guard
from hourpass.grpc import (
    AioGuardInterceptor,
    GuardInterceptor,
    _client_address,
    current_user,
)
from hourpass.guard.token_verifier import Verified
from hourpass.testing import LIFETIME, Issuer
from tests.support.waiting import until

HEALTH = "/grpc.health.v1.Health/Check"
RULES: dict[str, Any] = {
    "public": ["/grpc.health.v1.Health/*"],
    "scopes": {"/model.Model/Train": ["train"]},
}
KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]

Channel = Any  # aio.Channel, whose stubs want the types of messages

guard = Guard("https://hourpass.example")


CHECK_SECONDS = 0.02


@pytest.fixture(autouse=True)
def issuer(hourpass_issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> Issuer:
    monkeypatch.setattr("hourpass.grpc.CHECK_SECONDS", CHECK_SECONDS)
    hourpass_issuer.attach(guard)
    return hourpass_issuer


def user_name() -> bytes:
    user = current_user()
    return user.username.encode() if user else b"nobody"


class AsyncModel:
    def __init__(self) -> None:
        self.has_begun = asyncio.Event()
        self.may_finish = asyncio.Event()
        self.is_cancelled = asyncio.Event()

    async def unary(self, _request: Any, _context: Any) -> bytes:
        return user_name()

    async def stream(self, _request: Any, _context: Any) -> AsyncIterator[bytes]:
        yield user_name()
        yield user_name()

    async def write(self, _request: Any, context: Any) -> None:
        await context.write(user_name())

    async def endless(self, _request: Any, _context: Any) -> AsyncIterator[bytes]:
        yield user_name()
        await asyncio.Event().wait()

    async def slow(self, _request: Any, _context: Any) -> bytes:
        self.has_begun.set()
        try:
            await self.may_finish.wait()
        except asyncio.CancelledError:
            self.is_cancelled.set()
            raise
        return user_name()


class ThreadedModel:
    def unary(self, _request: Any, _context: Any) -> bytes:
        return user_name()

    def stream(self, _request: Any, _context: Any) -> Iterator[bytes]:
        yield user_name()
        yield user_name()


class Service(grpc.GenericRpcHandler):
    """Raw bytes are its messages: no generated code is needed."""

    def __init__(self, model: AsyncModel | ThreadedModel) -> None:
        handlers: dict[str, Any] = {HEALTH: grpc.unary_unary_rpc_method_handler(model.unary)}
        for kind in KINDS:
            behavior = model.stream if kind.endswith("stream") else model.unary
            handlers[f"/model.Model/{kind}"] = getattr(grpc, f"{kind}_rpc_method_handler")(behavior)
        handlers["/model.Model/Train"] = grpc.unary_unary_rpc_method_handler(model.unary)
        if isinstance(model, AsyncModel):
            handlers["/model.Model/Write"] = grpc.unary_stream_rpc_method_handler(model.write)
            handlers["/model.Model/Endless"] = grpc.unary_stream_rpc_method_handler(model.endless)
            handlers["/model.Model/Slow"] = grpc.unary_unary_rpc_method_handler(model.slow)
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(handler_call_details.method)


@asynccontextmanager
async def serving_aio(model: AsyncModel | ThreadedModel, **options: Any) -> AsyncIterator[Channel]:
    server = aio.server(interceptors=[AioGuardInterceptor(guard, **RULES, **options)])
    server.add_generic_rpc_handlers((Service(model),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


@asynccontextmanager
async def serving_threads() -> AsyncIterator[Channel]:
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, interceptors=[GuardInterceptor(guard, **RULES)])
        server.add_generic_rpc_handlers((Service(ThreadedModel()),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield channel
        finally:
            server.stop(0).wait()


@pytest.fixture(params=["coroutines", "functions", "threads"])
async def channel(request: pytest.FixtureRequest) -> AsyncIterator[Channel]:
    server = {
        "coroutines": lambda: serving_aio(AsyncModel()),
        "functions": lambda: serving_aio(ThreadedModel()),
        "threads": serving_threads,
    }[request.param]
    async with server() as channel:
        yield channel


def metadata(*tokens: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}") for token in tokens]


async def call(channel: Channel, kind: str, *tokens: str, method: str = "") -> Any:
    make: Callable[..., Any] = getattr(channel, kind)
    # Not a message of a stream: the client reports another error if the server ends the call first.
    requests = () if kind.startswith("stream") else (b"a",)
    response = make(method or f"/model.Model/{kind}")(*requests, metadata=metadata(*tokens))
    return [part async for part in response] if kind.endswith("stream") else await response


async def refusal(channel: Channel, kind: str, *tokens: str, method: str = "") -> Any:
    with pytest.raises(aio.AioRpcError) as refused:
        await call(channel, kind, *tokens, method=method)
    return refused.value.code().name, refused.value.details()


async def test_every_kind_of_call_knows_its_user(channel: Channel, issuer: Issuer) -> None:
    token = issuer.token()
    assert [await call(channel, kind, token) for kind in KINDS] == [
        b"lancelot",
        [b"lancelot", b"lancelot"],
        b"lancelot",
        [b"lancelot", b"lancelot"],
    ]


async def test_public_methods_need_no_token(channel: Channel, issuer: Issuer) -> None:
    await call(channel, "unary_unary", issuer.token())
    assert await call(channel, "unary_unary", method=HEALTH) == b"nobody"
    assert await call(channel, "unary_unary", issuer.token(), method=HEALTH) == b"nobody"


async def test_refused_calls(channel: Channel, issuer: Issuer) -> None:
    token = issuer.token()
    for kind in KINDS:
        assert await refusal(channel, kind) == ("UNAUTHENTICATED", "A bearer token is needed")
        for tokens in [(issuer.revoked_token(),), (issuer.forged_token(),), (token, token)]:
            assert await refusal(channel, kind, *tokens) == ("UNAUTHENTICATED", "Invalid token")


async def test_a_missing_scope_is_permission_denied(channel: Channel, issuer: Issuer) -> None:
    train = "/model.Model/Train"
    refused = await refusal(channel, "unary_unary", issuer.token("predict"), method=train)
    assert refused == ("PERMISSION_DENIED", "The token does not allow this")
    trained = await call(channel, "unary_unary", issuer.token("train"), method=train)
    assert trained == b"lancelot"


async def test_an_outage_is_unavailable(channel: Channel, issuer: Issuer) -> None:
    guard.start()
    token = issuer.token()
    with issuer.outage():
        unavailable = ("UNAVAILABLE", "The login service cannot be reached")
        assert await refusal(channel, "unary_unary", token) == unavailable
        with pytest.raises(aio.AioRpcError) as refused:
            await call(channel, "unary_unary", token)
    assert refused.value.trailing_metadata().get("grpc-retry-pushback-ms") == "2000"


async def test_an_unknown_method_is_unimplemented(channel: Channel, issuer: Issuer) -> None:
    refused = await refusal(channel, "unary_unary", issuer.token(), method="/model.Model/Nothing")
    assert refused[0] == "UNIMPLEMENTED"


async def test_a_refusal_does_not_wait_for_messages(issuer: Issuer) -> None:
    async def never() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async with serving_aio(AsyncModel()) as channel:
        with pytest.raises(aio.AioRpcError) as refused:
            await channel.stream_unary("/model.Model/stream_unary")(
                never(), metadata=metadata(issuer.revoked_token())
            )
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_coroutines_that_write_know_their_user(issuer: Issuer) -> None:
    async with serving_aio(AsyncModel()) as channel:
        written = await call(channel, "unary_stream", issuer.token(), method="/model.Model/Write")
    assert written == [b"lancelot"]


def end(issuer: Issuer, token: str, reason: str) -> None:
    if reason == "The token was revoked":
        issuer.revoke(token)
    else:
        issuer.advance_time(LIFETIME + timedelta(seconds=1))


@pytest.mark.parametrize("reason", ["The token was revoked", "The token has expired"])
async def test_a_stream_ends_with_its_token(issuer: Issuer, reason: str) -> None:
    token = issuer.token()
    async with serving_aio(AsyncModel()) as channel:
        responses = channel.unary_stream("/model.Model/Endless")(b"", metadata=metadata(token))
        assert await responses.read() == b"lancelot"
        await asyncio.to_thread(end, issuer, token, reason)
        with pytest.raises(aio.AioRpcError) as ended:
            await responses.read()
    assert (ended.value.code().name, ended.value.details()) == ("UNAUTHENTICATED", reason)


async def test_a_running_call_ends_when_its_token_is_revoked(issuer: Issuer) -> None:
    token = issuer.token()
    model = AsyncModel()
    async with serving_aio(model) as channel:
        response = channel.unary_unary("/model.Model/Slow")(b"", metadata=metadata(token))
        await model.has_begun.wait()
        await asyncio.to_thread(issuer.revoke, token)
        with pytest.raises(aio.AioRpcError) as ended:
            await response
        await asyncio.wait_for(model.is_cancelled.wait(), 10)
    assert ended.value.details() == "The token was revoked"


async def test_a_running_call_finishes_when_its_token_expires(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Verified] = []
    is_revoked = guard.is_revoked

    def look(verified: Verified) -> bool:
        looks.append(verified)
        return is_revoked(verified)

    monkeypatch.setattr(guard, "is_revoked", look)
    model = AsyncModel()
    async with serving_aio(model) as channel:
        response = channel.unary_unary("/model.Model/Slow")(b"", metadata=metadata(issuer.token()))
        await model.has_begun.wait()
        await asyncio.to_thread(issuer.advance_time, LIFETIME + timedelta(seconds=1))
        before = len(looks)
        await until(lambda: len(looks) > before + 2)
        model.may_finish.set()
        assert await response == b"lancelot"
        after = len(looks)
        await asyncio.sleep(0.1)
    assert len(looks) <= after + 1  # the guard looks no longer


async def test_calls_may_finish(issuer: Issuer) -> None:
    token = issuer.token()
    async with serving_aio(AsyncModel(), finish_calls=True) as channel:
        responses = channel.unary_stream("/model.Model/Endless")(b"", metadata=metadata(token))
        assert await responses.read() == b"lancelot"
        await asyncio.to_thread(issuer.revoke, token)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(responses.read(), 10 * CHECK_SECONDS)


def test_scopes_are_lists() -> None:
    with pytest.raises(TypeError):
        GuardInterceptor(guard, scopes={"/model.Model/Train": "train"})


async def test_calls_accept_api_keys_in_either_place(issuer: Issuer) -> None:
    key = issuer.api_key("train")
    keyed_guard = Guard("https://hourpass.example", api_key_headers=["x-api-key"])
    issuer.attach(keyed_guard)
    server = aio.server(interceptors=[AioGuardInterceptor(keyed_guard, **RULES)])
    server.add_generic_rpc_handlers((Service(AsyncModel()),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary("/model.Model/Train")
            assert await call(b"", metadata=[("x-api-key", key)]) == b"lancelot"
            assert await call(b"", metadata=metadata(key)) == b"lancelot"
            other = [("x-api-key", key), *metadata(issuer.token("train"))]
            for refused in (other, [("api-key", key)], [("x-api-key", issuer.token("train"))]):
                with pytest.raises(aio.AioRpcError) as refusal:
                    await call(b"", metadata=refused)
                assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
    finally:
        await server.stop(0)


async def test_calls_come_from_the_networks_of_their_token(
    channel: Channel, issuer: Issuer
) -> None:
    here, elsewhere = ["127.0.0.0/8", "::1/128"], ["192.0.2.0/24"]
    for make in (issuer.token, issuer.api_key):
        for kind in KINDS:
            assert b"lancelot" in await call(channel, kind, make(networks=here))
            refused = await refusal(channel, kind, make(networks=elsewhere))
            assert refused == ("UNAUTHENTICATED", "Invalid token")


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:50000", "192.0.2.1"),
        ("ipv6:[2001:db8::1]:50000", "2001:db8::1"),
        ("ipv6:%5B2001:db8::1%5D:50000", "2001:db8::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:50000", "fe80::1%eth0"),
        ("unix:/run/model.sock", None),
        ("unix:", None),
        ("", None),
    ],
)
def test_the_clients_address_is_in_the_peer(peer: str, address: str | None) -> None:
    context = Mock()
    context.peer.return_value = peer
    assert _client_address(context) == address


async def test_a_stream_that_began_with_a_key_goes_on_with_its_next_token(issuer: Issuer) -> None:
    key = issuer.api_key()
    async with serving_aio(AsyncModel()) as channel:
        call: Any = channel.unary_stream("/model.Model/Endless")(b"", metadata=metadata(key))
        assert await call.read() == b"lancelot"
        asked = issuer.asked["/token"]
        await asyncio.to_thread(issuer.advance_time, timedelta(minutes=49))
        await until(lambda: issuer.asked["/token"] > asked and not guard._keys._exchanges)
        await asyncio.sleep(10 * CHECK_SECONDS)  # the call finds the new token
        await asyncio.to_thread(issuer.advance_time, timedelta(minutes=12))
        await asyncio.sleep(10 * CHECK_SECONDS)
        assert not call.done()
        await asyncio.to_thread(issuer.revoke, key)
        with pytest.raises(aio.AioRpcError) as ended:
            await call.read()
        assert ended.value.details() == "The API key is no longer valid"
