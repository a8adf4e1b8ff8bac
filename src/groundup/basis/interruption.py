"""One place that knows whether the run was asked to stop: SIGINT, SIGTERM, its time is up, or the program itself asks.

A signal handler only notes the request; long-running code calls `check()` at points where stopping is safe. Lower floors
(data preparation) receive `check` as an argument. A SIGINT after that raises KeyboardInterrupt at once: Ctrl-C twice always ends.

Work that cannot call `check` and has nothing to lose, such as compiling, is done inside `at_once`: there the handler itself throws.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """The run was asked to stop and has stopped at a safe point. `exit_code` is 130 (SIGINT), 143 (SIGTERM) or 0 (time is up)."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.exit_code = exit_code


class _Now(BaseException):
    """Thrown by a signal handler inside `StopRequest.at_once`. Not an Exception, which what runs there may swallow or wrap."""


class StopRequest:
    """Remembers the first request to stop. `max_seconds`: seconds from construction after which the time is up."""

    def __init__(self, max_seconds: float | None = None) -> None:
        self._deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self._signal: signal.Signals | None = None
        self._asked: Interrupted | None = None
        self._at_once = False

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
            return self._time_is_up()
        return None

    @staticmethod
    def _time_is_up() -> Interrupted:
        return Interrupted("--max-time is up", 0)

    def check(self) -> None:
        """Raise `Interrupted` if the run was asked to stop."""
        if reason := self.pending:
            raise reason

    def check_now(self) -> None:
        """The same where several processes stop together and none of them can go on if one cannot: no check later."""
        self.check()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self._signal = self._signal or signal.Signals(number)
        self._throw()

    def _throw(self, *_: object) -> None:
        """Leave the work of `at_once`, once."""
        if self._at_once:
            self._at_once = False
            raise _Now

    def at_once(self, work: Callable[[], None]) -> None:
        """Do `work`, which has nothing to lose, and raise `Interrupted` out of the middle of it when asked to stop by a signal
        (while `listening`) or when the time is up. Outside the main thread, where Python handles no signal, at its end."""
        self.check()
        try:
            with self._alarm():
                try:
                    self._at_once = threading.current_thread() is threading.main_thread()
                    self.check()  # a signal may have come just before
                    work()
                finally:
                    self._at_once = False
        except _Now:
            raise (self.pending or self._time_is_up()) from None  # a timer may be a moment early
        except Exception:
            self.check()  # an error of what was thrown out of the middle is none
            raise
        self.check()

    @contextmanager
    def _alarm(self) -> Iterator[None]:
        """Be told by SIGALRM when the time is up, where there is such a signal. Another timer of this process goes on after it."""
        here = threading.current_thread() is threading.main_thread()
        if self._deadline is None or not hasattr(signal, "setitimer") or not here:
            yield
            return
        began = time.monotonic()
        handler = signal.signal(signal.SIGALRM, self._throw)
        left, interval = signal.setitimer(signal.ITIMER_REAL, max(self._deadline - began, 1e-3))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)
            if left:
                signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3), interval)

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
