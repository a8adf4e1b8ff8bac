"""One place that knows whether the run was asked to stop: SIGINT, SIGTERM, its time is up, or the program itself asks.

A signal handler only notes the request; long-running code calls `check()` at points where stopping is safe. Lower floors
(data preparation) receive `check` as an argument. A SIGINT after that raises KeyboardInterrupt at once: Ctrl-C twice always ends.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """The run was asked to stop and has stopped at a safe point. `exit_code` is 130 (SIGINT), 143 (SIGTERM) or 0 (time is up)."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.exit_code = exit_code


class StopRequest:
    """Remembers the first request to stop. `max_seconds`: seconds from construction after which the time is up."""

    def __init__(self, max_seconds: float | None = None) -> None:
        self._deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self._signal: signal.Signals | None = None
        self._asked: Interrupted | None = None

    def request(self, reason: str) -> None:
        """Ask to stop from inside the program, at the next safe point. The exit status stays 0."""
        self._asked = self._asked or Interrupted(reason, 0)

    @property
    def pending(self) -> Interrupted | None:
        """Why to stop, or None. Cheap enough for every step."""
        if self._signal is not None:
            return Interrupted(self._signal.name, 128 + self._signal)
        if self._asked is not None:
            return self._asked
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return Interrupted("--max-time is up", 0)
        return None

    def check(self) -> None:
        """Raise `Interrupted` if the run was asked to stop."""
        if reason := self.pending:
            raise reason

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self._signal = self._signal or signal.Signals(number)

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Note SIGINT and SIGTERM while inside; the handlers that were there before are put back."""
        if threading.current_thread() is not threading.main_thread():
            yield self  # Python hands signals to the main thread alone
            return
        previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
