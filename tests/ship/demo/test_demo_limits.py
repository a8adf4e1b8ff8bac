"""What the demo's server takes in: bodies up to a size as they arrive, files and no addresses."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from groundup.ship.demo.limits import OTHER_BYTES, RequestLimits

UPLOAD = 1000


def ask(path: str, chunks: Iterable[bytes], announced: bytes | None = None, method: str = "POST") -> tuple[int, bytes]:
    """Status and body of an application behind the limits that answers 200 with what it was sent."""
    waiting = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    headers = [(b"Content-Length", announced)] if announced is not None else []
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(RequestLimits(application, UPLOAD)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


def test_a_request_within_the_limits_arrives_whole() -> None:
    body = json.dumps({"data": [{"path": "/tmp/uploads/a/photo.png"}]}).encode()
    assert ask("/gradio_api/queue/join", [body[:10], body[10:]]) == (200, body)
    assert ask("/gradio_api/upload", [b"x" * UPLOAD]) == (200, b"x" * UPLOAD)


@pytest.mark.parametrize("announced", [None, b"10"])
def test_a_body_is_counted_as_it_arrives(announced: bytes | None) -> None:
    chunk = b"x" * 65536
    assert ask("/gradio_api/queue/join", [chunk] * 5, announced)[0] == 413
    assert ask("/gradio_api/upload", [chunk] * 3, announced)[0] == 413


def test_an_announced_size_is_refused_before_anything_is_read() -> None:
    for announced in (str(OTHER_BYTES + 1).encode(), b"-1", b"many"):
        status, body = ask("/gradio_api/queue/join", [], announced)
        assert status == 413
        assert "larger than 256 KB" in json.loads(body)["detail"]


@pytest.mark.parametrize("place", ["http://example.org/a.png", "https://example.org/a.png", "ftp://example.org/a"])
def test_an_address_in_place_of_a_file_is_refused(place: str) -> None:
    body = json.dumps({"data": [[{"nested": {"path": place}}]]}).encode()
    status, answer = ask("/gradio_api/run/predict", [body[:20], body[20:]])
    assert status == 400
    assert "upload the picture" in json.loads(answer)["detail"]


def test_looking_at_pages_is_not_limited() -> None:
    assert ask("/", [], b"999999999", method="GET")[0] == 200
