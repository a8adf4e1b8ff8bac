"""What the demo's server takes in: bodies up to a size, and files that were sent to it.

Gradio bounds each uploaded file; this bounds the whole of every request as it arrives, so that no memory is spent on what will be
refused, and refuses addresses in place of files: the server would fetch them, of any size, for whoever asks.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OTHER_BYTES = 256 << 10
_ENVELOPE = 64 << 10  # what multipart adds around a file


class Refused(Exception):
    """A request that is answered with `status` and the message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RequestLimits:
    """ASGI middleware. upload_bytes: of one upload; everything else is at most OTHER_BYTES."""

    def __init__(self, app: Application, upload_bytes: int) -> None:
        self._app = app
        self._upload_bytes = upload_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Hand the request on, or answer it."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            uploads = scope["path"].rstrip("/").endswith("/upload")
            if uploads:
                await self._app(scope, _counted(receive, scope, self._upload_bytes + _ENVELOPE), noted)
            else:
                await self._app(scope, await _checked(_counted(receive, scope, OTHER_BYTES)), noted)
        except Refused as refused:
            if not started:
                await _answer(refused, send)


def _counted(receive: Receive, scope: MutableMapping[str, Any], limit: int) -> Receive:
    """`receive`, which raises Refused once more than `limit` bytes are announced or have come."""
    headers = {name.lower(): value for name, value in scope["headers"]}
    announced = headers.get(b"content-length", b"0")
    too_much = Refused(413, f"the request is larger than {limit >> 10} KB")
    if not announced.isdigit() or int(announced) > limit:
        raise too_much
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise too_much
        return message

    return counted


async def _checked(receive: Receive) -> Receive:
    """A `receive` that gives the whole body at once, after a look at it."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return receive
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if _names_an_address(body):
        raise Refused(400, "addresses are not fetched: upload the picture itself")
    given = False

    async def whole() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return whole


def _names_an_address(body: bytes) -> bool:
    try:
        waiting: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return False
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            place = value.get("path")
            if isinstance(place, str) and "://" in place:
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False


async def _answer(refused: Refused, send: Send) -> None:
    body = json.dumps({"detail": str(refused)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
