"""What the demo's server takes in: bodies up to a size, and files that were sent to it.

Gradio bounds each uploaded file; this bounds the whole of every request as it arrives, so that no memory is spent on what will be
refused, and all files that are kept together. It refuses addresses in place of files: the server would fetch them, of any size,
for whoever asks. Sizes are in bytes.
"""

import asyncio
import contextlib
import json
import math
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OTHER_BYTES = 256 << 10
KEPT_BYTES = 1 << 30
KEPT_SECONDS = 600
_LEAST = 64 << 10  # what a file counts for at least: folders of millions of empty ones are not free either
_FOR_ANSWERS = (
    64 << 20
)  # the pictures that the page draws lie in the same folder; who could still upload gets an answer
_LOOKED_EVERY = 1.0  # s
_ENVELOPE = 64 << 10  # what multipart adds around a file


class Refused(Exception):
    """A request that is answered with `status` and the message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class KeptFiles:
    """The folder of uploaded files, which may hold `most` bytes in all. Gradio deletes whole files when they are KEPT_SECONDS old,
    and forgets those whose upload was broken off: they are deleted here."""

    def __init__(self, folder: Path, most: int = KEPT_BYTES) -> None:
        self._folder = folder
        self._most = most
        self._stored = 0  # when it was looked at last
        self._arrived = 0  # since then
        self._looked = -math.inf

    async def require_room(self, more: float = 0) -> None:
        """Refused if `more` bytes do not fit."""
        if time.monotonic() - self._looked > _LOOKED_EVERY:
            self._looked = time.monotonic()
            before = self._arrived
            self._stored = await asyncio.to_thread(self._measure)
            self._arrived -= before
        if self._stored + self._arrived + more > self._most:
            raise Refused(503, "the server keeps as many pictures as it has room for: try again in some minutes")

    async def take(self, size: int) -> None:
        """Note that `size` bytes have come. Refused if they do not fit."""
        self._arrived += size
        await self.require_room()

    def _measure(self) -> int:
        total = 0
        for place, _, names in os.walk(self._folder):
            for name in names:
                path = Path(place, name)
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    facts = path.stat()
                    if path.parent == self._folder and time.time() - facts.st_mtime > KEPT_SECONDS:
                        path.unlink()  # a whole file lies in a folder of its own
                    else:
                        total += max(_LEAST, facts.st_size)
        return total


class RequestLimits:
    """ASGI middleware. upload_bytes: of one upload; everything else is at most OTHER_BYTES."""

    def __init__(self, app: Application, upload_bytes: int, kept: KeptFiles) -> None:
        self._app = app
        self._upload_bytes = upload_bytes
        self._kept = kept

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
                counted = _counted(receive, scope, self._upload_bytes + _ENVELOPE, self._kept)
                await self._kept.require_room(_announced(scope))
                await self._app(scope, counted, noted)
            else:
                await self._kept.require_room(-_FOR_ANSWERS)
                await self._app(scope, await _checked(_counted(receive, scope, OTHER_BYTES)), noted)
        except Refused as refused:
            if not started:
                await _answer(refused, send)


def _announced(scope: MutableMapping[str, Any]) -> float:
    """The size that the head of a request announces; 0 if it announces none, infinite if that is no size."""
    announced = {name.lower(): value for name, value in scope["headers"]}.get(b"content-length", b"0")
    return int(announced) if announced.isdigit() else math.inf


def _counted(receive: Receive, scope: MutableMapping[str, Any], limit: int, kept: KeptFiles | None = None) -> Receive:
    """`receive`, which raises Refused once more than `limit` bytes are announced or have come, or `kept` has no room for them."""
    too_much = Refused(413, f"the request is larger than {limit >> 10} KB")
    if _announced(scope) > limit:
        raise too_much
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        size = len(message.get("body", b""))
        seen += size
        if seen > limit:
            raise too_much
        if kept is not None:
            await kept.take(size)
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
