"""What `bench/faults.py` and the tests of mirrors do to a network: an S3 server on loopback, and a proxy that fails on demand.

The server is moto's, as a process of its own. The proxy stands between it and the client and passes TCP connections on, until
it is told to behave otherwise:

    pass      everything goes through
    refuse    connections are closed at once
    errors    every request is answered with 503
    cut       the connection is closed after `cut_after` bytes of a request
    stall     connections are taken, nothing is read or answered
    slow      requests go through at `rate` bytes a second, answers at full speed
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

MODES = ("pass", "refuse", "errors", "cut", "stall", "slow")
_UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
# What moto accepts as credentials; not a secret.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "loopback",
    "AWS_SECRET_ACCESS_KEY": "loopback-secret-key",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class Proxy:
    """A TCP proxy to `port` on loopback. `mode`: see above; `requests`, `sent`: connections taken, bytes passed to the server."""

    def __init__(self, port: int, mode: str = "pass", *, cut_after: int = 20_000, rate: int = 200_000) -> None:
        self.target, self.cut_after, self.rate = port, cut_after, rate
        self.connections, self.sent = 0, 0
        self._mode = mode
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        """Behave like this from now on; connections that are open are closed, so that no client goes on as before."""
        assert mode in MODES
        self._mode = mode
        for connection in list(self._open):
            _close(connection)

    def close(self) -> None:
        """Take no more connections, and close those that are open."""
        _close(self._listener)
        for connection in list(self._open):
            _close(connection)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._mode == "errors":
                self._answer_with_errors(client)
            elif self._mode == "stall":
                while self._mode == "stall":
                    time.sleep(0.05)
            elif self._mode != "refuse":
                self._pass_on(client)
        self._open.discard(client)
        _close(client)

    def _answer_with_errors(self, client: socket.socket) -> None:
        seen = b""
        while b"\r\n\r\n" not in seen:
            if not (part := client.recv(65536)):
                return
            seen += part
        client.sendall(_UNAVAILABLE)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(1)
        while client.recv(65536):
            pass

    def _pass_on(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self.target)) as server:
            self._open.add(server)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            passed = 0
            while part := client.recv(16384):
                if self._mode == "cut" and passed + len(part) > self.cut_after:
                    server.sendall(part[: max(0, self.cut_after - passed)])
                    break
                if self._mode == "slow":
                    time.sleep(len(part) / self.rate)
                server.sendall(part)
                passed += len(part)
                self.sent += len(part)
            if self._mode == "cut":
                _close(client)
            _close(server, how=socket.SHUT_WR)
            back.join(5)
            self._open.discard(server)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            target.sendall(part)
    _close(target, how=socket.SHUT_WR)


def _close(connection: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(how)
    if how == socket.SHUT_RDWR:
        with contextlib.suppress(OSError):
            connection.close()


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """The port of an empty S3 server on loopback. Needs moto with its server (in the extra `dev`)."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], **quiet)  # type: ignore[call-overload]
    try:
        _wait_until_it_answers(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def _wait_until_it_answers(port: int, process: "subprocess.Popen[bytes]", seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=2):
            return
        time.sleep(0.1)
    raise RuntimeError("moto's server does not start; it comes with pip install 'groundup[dev]'")


def environment(url: str) -> dict[str, str]:
    """The environment in which the client of S3 talks to `url` and to nothing else."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return {**inherited, **CREDENTIALS, "AWS_ENDPOINT_URL": url, "AWS_EC2_METADATA_DISABLED": "true"}


def make_bucket(port: int, name: str) -> None:
    """An empty bucket on the server."""
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/{name}", method="PUT"), timeout=10).close()
