"""What the demo's server takes in: bodies up to a size as they arrive, a folder of files up to a size, files and no addresses."""

import asyncio
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from groundup.ship.demo.limits import KEPT_SECONDS, OTHER_BYTES, KeptFiles, RequestLimits

UPLOAD = 1000


def ask(
    path: str,
    chunks: Iterable[bytes],
    announced: bytes | None = None,
    method: str = "POST",
    kept: KeptFiles | None = None,
) -> tuple[int, bytes]:
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
    asyncio.run(RequestLimits(application, UPLOAD, kept or KeptFiles(Path("nowhere")))(scope, receive, send))
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


KB = 1 << 10


def fill(folder: Path, *sizes: int) -> None:
    """Whole uploads as Gradio keeps them: each in a folder of its own."""
    for number, size in enumerate(sizes):
        (folder / str(number)).mkdir(parents=True, exist_ok=True)
        with open(folder / str(number) / "photo.png", "wb") as file:
            file.truncate(size)


@pytest.mark.parametrize("announced", [None, str(UPLOAD).encode()])
def test_a_full_folder_takes_no_upload_until_there_is_room(announced: bytes | None, tmp_path: Path) -> None:
    fill(tmp_path, 500 * KB, 400 * KB)
    body = [b"x" * UPLOAD]
    status, answer = ask("/gradio_api/upload", body, announced, kept=KeptFiles(tmp_path, most=900 * KB))
    assert status == 503
    assert "try again in some minutes" in json.loads(answer)["detail"]
    assert ask("/gradio_api/upload", body, announced, kept=KeptFiles(tmp_path, most=901 * KB))[0] == 200
    fill(tmp_path, 300 * KB)
    assert ask("/gradio_api/upload", body, announced, kept=KeptFiles(tmp_path, most=900 * KB))[0] == 200


def test_uploads_at_the_same_moment_share_the_room(tmp_path: Path) -> None:
    kept = KeptFiles(tmp_path, most=2 * UPLOAD)  # which is looked at once for all of them
    assert [ask("/gradio_api/upload", [b"x" * UPLOAD], kept=kept)[0] for _ in range(3)] == [200, 200, 503]


def test_empty_files_are_not_free(tmp_path: Path) -> None:
    fill(tmp_path, *[0] * 20)
    assert ask("/gradio_api/upload", [b"x"], kept=KeptFiles(tmp_path, most=1 << 20))[0] == 503


def test_who_has_uploaded_is_answered_though_the_folder_is_full(tmp_path: Path) -> None:
    fill(tmp_path, 1 << 20)
    kept = KeptFiles(tmp_path, most=1 << 20)
    assert ask("/gradio_api/upload", [b"x"], kept=kept)[0] == 503
    assert ask("/gradio_api/queue/join", [b"{}"], kept=kept)[0] == 200
    fill(tmp_path, 70 << 20)  # what answers have drawn is bounded too
    assert ask("/gradio_api/queue/join", [b"{}"], kept=KeptFiles(tmp_path, most=1 << 20))[0] == 503


def test_uploads_that_were_broken_off_are_deleted_after_a_while(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    for name, age in (("tmp1", KEPT_SECONDS + 5), ("tmp2", KEPT_SECONDS - 60)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    ask("/gradio_api/upload", [b"x"], kept=KeptFiles(tmp_path))
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["photo.png", "tmp2"]
