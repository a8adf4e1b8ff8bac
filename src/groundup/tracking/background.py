"""A thread that writes, so that no step waits for a disk or a network.

What is put into its queue is written in the same order, one record after the other. A writer that fails ends the thread; what it
raised is raised at the next `put` or at `finish`. Both TensorBoard's files and the process of Weights & Biases are fed this way.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable

from groundup.basis.errors import GroundupError

WAITING = 20_000  # records that may wait: a few MB, and minutes in which the writer does not come back


class BackgroundWriter:
    """Gives every record to `write`, which may be slow, in a thread of its own; `close` is called there after the last.

    `what`: what is written to, for messages.
    """

    def __init__(self, what: str, write: Callable[[bytes], object], close: Callable[[], object]) -> None:
        self._what, self._write, self._close = what, write, close
        self._records: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._serve, name=f"groundup-{what}", daemon=True)
        self._thread.start()

    def put(self, record: bytes) -> None:
        """Never waits. GroundupError if nothing is taken any more; what `write` raised, if it did."""
        if self._failed is not None:
            raise self._failed
        try:
            self._records.put_nowait(record)
        except queue.Full:
            raise GroundupError(f"{self._what} has not answered for {WAITING} records") from None

    def end(self) -> None:
        """No record comes after this. Does not wait."""
        with contextlib.suppress(queue.Full):
            self._records.put_nowait(None)

    def join(self, seconds: float | None = None) -> bool:
        """Wait until the thread has ended, at most that long; whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def finish(self, seconds: float) -> None:
        """Wait until every record is written, at most that long, then GroundupError. Raises what `write` raised, if it did."""
        until = time.monotonic() + seconds
        with contextlib.suppress(queue.Full):
            self._records.put(None, timeout=seconds)
        if not self.join(max(0.0, until - time.monotonic())):
            left = self._records.qsize()
            raise GroundupError(f"{self._what} did not finish within {seconds:g} s; {left} records are not written")
        if self._failed is not None:
            raise self._failed

    def _serve(self) -> None:
        try:
            while (record := self._records.get()) is not None:
                self._write(record)
        except Exception as error:
            self._failed = error
        try:
            self._close()
        except Exception as error:
            self._failed = self._failed or error
