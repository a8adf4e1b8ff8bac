"""A demo in a process of its own, and the least that a client of its endpoint has to do, over plain HTTP."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Loopback is never asked for through a proxy.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Demo:
    """A running demo. `address` ends in a slash."""

    address: str
    process: subprocess.Popen[str]

    def fetch(self, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, str]:
        """Status and text of a GET, or of a POST of `body`."""
        request = urllib.request.Request(self.address + path, body, {"Content-Type": kind} if body is not None else {})
        try:
            with _OPENER.open(request, timeout=60) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    def upload(self, content: bytes, name: str) -> tuple[int, str]:
        """Status, and the answer in which the path of the upload is."""
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
        return self.fetch("gradio_api/upload", body, f"multipart/form-data; boundary={mark}")

    def call(self, picture: Mapping[str, Any]) -> tuple[str, Any]:
        """The last event of a call of /predict, `complete` or `error`, and its data."""
        status, text = self.fetch("gradio_api/call/predict", json.dumps({"data": [picture]}).encode())
        if status != 200:
            return f"status {status}", text
        _, text = self.fetch(f"gradio_api/call/predict/{json.loads(text)['event_id']}")
        events = re.findall(r"event: (\w+)\ndata: (.*)\n", text)
        kind, data = events[-1]
        return kind, json.loads(data)

    def predict(self, content: bytes, name: str) -> tuple[str, Any]:
        """What /predict answers to a picture."""
        status, text = self.upload(content, name)
        assert status == 200, text
        (path,) = json.loads(text)
        kind, data = self.call({"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}})
        return kind, data[0] if kind == "complete" else data


@contextmanager
def started(command: Sequence[str | Path], folder: Path, **environment: str) -> Iterator[Demo]:
    """A demo that `command` starts, once it says where it listens; ended by Ctrl-C, which it has to follow."""
    said = folder / "said"
    with open(said, "w") as out:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **environment},
            stdout=out,
            stderr=out,
            text=True,
        )
    try:
        end = time.monotonic() + 120
        while not (found := re.search(r"http://\S+/", said.read_text())):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < end, said.read_text()
            time.sleep(0.05)
        yield Demo(found[0], process)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()
