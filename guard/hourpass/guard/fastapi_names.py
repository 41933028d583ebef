"""The names of models in a request of FastAPI, whose endpoint reads the request again."""

from typing import Any

from starlette.requests import HTTPConnection, Request

from hourpass.errors import ContentTooLargeError, InvalidRequestError
from hourpass.guard.body_formats import Content
from hourpass.guard.name_readers import (
    FormReader,
    RequestHead,
    check_length,
)
from hourpass.guard.request_body import RequestBody, read_names
from hourpass.guard.requirements import Names, Requirement


async def names_in(connection: HTTPConnection, requirement: Requirement) -> Names:
    """Raises InvalidRequestError and ContentTooLargeError."""
    params = connection.path_params
    names = {name: [str(params[name])] for name in requirement.path_names}
    if not requirement.readers:
        return names
    head = RequestHead.of(connection.scope["headers"], connection.scope["query_string"])
    content: Content = b""
    form: Any = None
    if requirement.reads_body:
        if not isinstance(connection, Request):
            raise InvalidRequestError("A websocket has no body")
        check_length(connection.headers.get("content-length"), requirement.max_body)
        if connection._stream_consumed:  # noqa: SLF001 - FastAPI reads forms before dependencies
            form = connection._form  # noqa: SLF001 - likewise
        if form is None:
            content = await _read(connection, requirement.max_body)
    for name, reader in requirement.readers.items():
        if form is not None and isinstance(reader, FormReader):
            names[name] = reader.names_in(head, form.multi_items())
        else:
            names[name] = await read_names(reader, head, content)
    return names


async def _read(request: Request, limit: int) -> Content:
    if hasattr(request, "_body"):  # FastAPI, or another dependency, has read it
        content = await request.body()
        if len(content) > limit:
            raise ContentTooLargeError
        return content
    reader = getattr(request.receive, "__self__", None)
    if isinstance(reader, RequestBody):  # of another require(), or of the middleware
        if len(reader.content) > limit:
            raise ContentTooLargeError
        return reader.content
    if request._stream_consumed:  # noqa: SLF001 - see below
        raise RuntimeError("Another dependency has read the body as a stream")
    body = RequestBody(request.receive)
    await body.read(limit)
    # The endpoint has the same Request. Its body() would keep all of it in memory.
    request._receive = body.receive  # noqa: SLF001 - Starlette has no public way
    return body.content
