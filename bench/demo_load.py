"""What a running demo answers under load: parallel clients that upload a picture and ask /predict, one after the other, over HTTP.

    groundup demo RUN --port 7860 &
    python bench/demo_load.py http://127.0.0.1:7860/ photo.jpg --clients 20 --seconds 60 --out bench/results/demo_load.json

A request is counted from the upload to the answer; latencies are in milliseconds, over all that were answered. Anything but an
answer is a failure. Clients are threads of one process on the same machine, so they share its cores with the server.
"""

import argparse
import http.client
import json
import threading
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kept import keep

from groundup.runs.folder import environment


class Client:
    """One connection that is kept open. `answer` asks once; an OSError or a wrong answer is a failure."""

    def __init__(self, address: str, picture: Path) -> None:
        self._place = urlsplit(address)
        self._content, self._name = picture.read_bytes(), picture.name
        self._connection = self._connect()

    def answer(self) -> dict[str, Any]:
        """What /predict says to the picture."""
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{self._name}"\r\n\r\n'
        body = head.encode() + self._content + f"\r\n--{mark}--\r\n".encode()
        (path,) = json.loads(self._ask("upload", body, f"multipart/form-data; boundary={mark}"))
        data = {"data": [{"path": path, "orig_name": self._name, "meta": {"_type": "gradio.FileData"}}]}
        event = json.loads(self._ask("call/predict", json.dumps(data).encode(), "application/json"))["event_id"]
        kind, _, rest = self._ask(f"call/predict/{event}").strip().rpartition("event: ")[2].partition("\n")
        if kind != "complete":
            raise ValueError(f"{kind}: {rest}")
        answer: dict[str, Any] = json.loads(rest.removeprefix("data: "))[0]
        return answer

    def reconnect(self) -> None:
        """A fresh connection after a failure."""
        self._connection.close()
        self._connection = self._connect()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(str(self._place.hostname), self._place.port or 80, timeout=60)

    def _ask(self, path: str, body: bytes | None = None, kind: str = "") -> str:
        headers = {"Content-Type": kind} if body is not None else {}
        method = "GET" if body is None else "POST"
        self._connection.request(method, f"{self._place.path}gradio_api/{path}", body, headers)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise ValueError(f"status {answer.status}: {text[:200]}")
        return text


def work(client: Client, until: float, seconds: list[float], failures: list[str]) -> None:
    """Ask until the time is up."""
    while time.perf_counter() < until:
        begin = time.perf_counter()
        try:
            client.answer()
            seconds.append(time.perf_counter() - begin)
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures.append(f"{type(error).__name__}: {error}")
            client.reconnect()


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    address = chosen.address.rstrip("/") + "/"
    clients = [Client(address, chosen.picture) for _ in range(chosen.clients)]
    runs = [run["run"] for run in clients[0].answer()["runs"]]  # also warms the server up
    seconds: list[float] = []
    failures: list[str] = []
    begin = time.perf_counter()
    threads = [
        threading.Thread(target=work, args=(client, begin + chosen.seconds, seconds, failures)) for client in clients
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - begin
    machine = {
        key: value for key, value in environment().items() if key in ("system", "cpu", "cores", "groundup", "commit")
    }
    result = {
        "command": f"bench/demo_load.py ADDRESS {chosen.picture.name} --clients {chosen.clients} --seconds {chosen.seconds:g}",
        "runs": runs,
        "picture_bytes": chosen.picture.stat().st_size,
        "clients": chosen.clients,
        "seconds": round(spent, 3),
        "requests": len(seconds),
        "requests_per_second": round(len(seconds) / spent, 2),
        "p50_ms": round(1000 * quantile(seconds, 0.5), 1) if seconds else None,
        "p99_ms": round(1000 * quantile(seconds, 0.99), 1) if seconds else None,
        "largest_ms": round(1000 * max(seconds), 1) if seconds else None,
        "failures": len(failures),
        "first_failures": failures[:5],
        **machine,
    }
    keep(result, chosen.out)


if __name__ == "__main__":
    main()
