"""Files by address: patterns, and what happens when a server fails."""

import contextlib
import errno
import http.server
import importlib.util
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from groundup.basis.errors import DataError, UsageError
from groundup.data import DataSettings
from groundup.data.shards import remote
from groundup.data.shards.remote import expanded, facts, fetch, with_retries


def test_braces_stand_for_ranges_with_leading_zeros_and_for_lists() -> None:
    assert expanded("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expanded("{x,y}/{0..1}") == ["x/0", "x/1", "y/0", "y/1"]
    assert expanded("plain.tar") == ["plain.tar"]
    with pytest.raises(UsageError, match=r"\{3\.\.1\}"):
        expanded("a-{3..1}.tar")


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)


def test_a_failure_that_passes_is_tried_again(no_waiting: None) -> None:
    answers: Iterator[Exception | str] = iter([OSError("reset"), TimeoutError("late"), "content"])

    def work() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert with_retries("http://host/file", work) == "content"


def test_a_failure_that_stays_names_the_address_and_the_tries(no_waiting: None) -> None:
    tried: list[int] = []

    def work() -> None:
        tried.append(1)
        raise OSError("reset by peer")

    with pytest.raises(DataError, match=r"http://host/file could not be read, tried 4 times: reset by peer"):
        with_retries("http://host/file", work)
    assert len(tried) == 4


def test_a_missing_file_is_not_asked_for_twice() -> None:
    tried: list[int] = []

    def work() -> None:
        tried.append(1)
        raise FileNotFoundError("x")

    with pytest.raises(DataError, match="http://host/file: there is no such file"):
        with_retries("http://host/file", work)
    assert len(tried) == 1


def test_a_server_that_does_not_answer_is_named(tmp_path: Path, no_waiting: None) -> None:
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9/x\.tar could not be read"):
        facts("http://127.0.0.1:9/x.tar")
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9/x\.tar could not be read"):
        fetch("http://127.0.0.1:9/x.tar", tmp_path / "x", 3)


@pytest.mark.parametrize(
    "address",
    ["https://me:secret@host/x.tar", "https://host/x.tar?X-Amz-Signature=abc", "https://host/x.tar?token=abc"],
)
def test_an_address_with_a_password_is_refused_for_it_would_be_written_down(address: str) -> None:
    with pytest.raises(ValueError, match="holds a password or a token"):
        DataSettings(source=f"webdataset:{address}")


def test_a_server_that_falls_silent_is_given_up_soon_and_one_that_is_slow_is_not(
    tmp_path: Path, no_waiting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SILENCE", 0.3)
    pauses = [0.1] * 6  # longer than SILENCE together

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(pauses)))
            self.end_headers()
            for pause in pauses:
                stopped.wait(pause)
                with contextlib.suppress(OSError):
                    self.wfile.write(b"x")
                    self.wfile.flush()

        def log_message(self, *arguments: Any) -> None:
            pass

    stopped = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/x.tar"
    try:
        fetch(url, tmp_path / "x", 6)
        assert (tmp_path / "x").read_bytes() == b"x" * 6
        pauses[1] = 20.0
        began = time.monotonic()
        with pytest.raises(DataError, match="could not be read, tried 4 times"):
            fetch(url, tmp_path / "y", 6)
        assert time.monotonic() - began < 10
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()


def test_a_file_that_arrives_short_is_not_taken(tmp_path: Path, no_waiting: None) -> None:
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://short.tar", "wb") as stream:
        stream.write(b"half")
    with pytest.raises(
        DataError, match=r"memory://short\.tar could not be read, tried 4 times: it ended after 4 of 8 bytes"
    ):
        fetch("memory://short.tar", tmp_path / "x", 8)


def test_a_bucket_that_falls_silent_is_asked_four_times_and_no_more(
    tmp_path: Path, no_waiting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3fs = pytest.importorskip("s3fs")
    path = Path(__file__).parents[3] / "bench" / "outages.py"
    spec = importlib.util.spec_from_file_location("outages", path)
    assert spec is not None
    assert spec.loader is not None
    outages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(outages)
    monkeypatch.setattr(remote, "SILENCE", 0.3)
    s3fs.S3FileSystem.clear_instance_cache()
    for work in (lambda: facts("s3://bucket/x.tar"), lambda: fetch("s3://bucket/x.tar", tmp_path / "x", 6)):
        proxy = outages.Proxy(9, "stall")
        for name, value in {**outages.CREDENTIALS, "AWS_ENDPOINT_URL": proxy.url}.items():
            monkeypatch.setenv(name, value)
        try:
            with pytest.raises(DataError, match=r"s3://bucket/x\.tar could not be read, tried 4 times"):
                work()
            assert proxy.connections == 4
        finally:
            proxy.mode = "refuse"  # which ends its threads
            proxy.close()
            s3fs.S3FileSystem.clear_instance_cache()


def test_a_disk_that_cannot_take_a_file_is_not_taken_for_a_failing_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://whole.tar", "wb") as stream:
        stream.write(bytes(100_000))
    asked_again = SimpleNamespace(sleep=lambda seconds: pytest.fail("the server is asked again"))
    monkeypatch.setattr(remote, "time", asked_again)
    if os.path.exists("/dev/full"):
        (tmp_path / "full").symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left") as caught:
            fetch("memory://whole.tar", tmp_path / "full", 100_000)
        assert caught.value.errno == errno.ENOSPC
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file") as caught:
        fetch("memory://whole.tar", tmp_path / "file" / "x", 100_000)
    assert not isinstance(caught.value, DataError)
