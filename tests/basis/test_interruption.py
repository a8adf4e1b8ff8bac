"""A request to stop is noted, answered at a safe point, and leaves the signal handlers as they were."""

import contextlib
import os
import signal
import time

import pytest

from groundup.basis.interruption import Interrupted, StopRequest

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # the handler runs between two instructions of the interpreter


def test_without_a_request_nothing_stops() -> None:
    stop = StopRequest()
    with stop.listening():
        stop.check()
        assert stop.pending is None


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_noted_and_answered_at_the_next_check(number: signal.Signals, status: int) -> None:
    stop = StopRequest()
    with stop.listening():
        send(number)  # nothing is raised here: the code in between runs to a safe point
        with pytest.raises(Interrupted) as caught:
            stop.check()
    assert (caught.value.reason, caught.value.exit_code) == (number.name, status)
    assert stop.pending is not None, "the request stays"


def test_the_first_signal_decides_the_exit_status() -> None:
    stop = StopRequest()
    with stop.listening():
        send(signal.SIGINT)
        send(signal.SIGTERM)
    assert stop.pending is not None
    assert stop.pending.exit_code == 130


def test_a_second_sigint_ends_at_once() -> None:
    stop = StopRequest()
    with stop.listening():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_sigterm_twice_still_waits_for_a_safe_point() -> None:
    stop = StopRequest()
    with stop.listening():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM"):
            stop.check()


def test_the_handlers_are_put_back_however_it_ends() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest().listening():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    with pytest.raises(RuntimeError), StopRequest().listening():
        raise RuntimeError
    assert [signal.getsignal(number) for number in SIGNALS] == before
    stop = StopRequest()
    with stop.listening(), contextlib.suppress(KeyboardInterrupt):
        send(signal.SIGINT)
        send(signal.SIGINT)
        pytest.fail("the second SIGINT was not answered")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_time_that_is_up_stops_with_status_0() -> None:
    stop = StopRequest(max_seconds=0.05)
    stop.check()
    time.sleep(0.06)
    with pytest.raises(Interrupted, match="--max-time is up") as caught:
        stop.check()
    assert caught.value.exit_code == 0


def test_a_signal_counts_more_than_the_time() -> None:
    stop = StopRequest(max_seconds=0)
    with stop.listening():
        send(signal.SIGTERM)
    assert stop.pending is not None
    assert stop.pending.exit_code == 143
