"""A request to stop is noted, answered at a safe point, and leaves the signal handlers as they were."""

import contextlib
import os
import signal
import threading
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


class Wrapped(Exception):
    """What a compiler makes of whatever is raised inside it."""


def work_that_sends(number: signal.Signals, done: list[str]) -> None:
    try:
        send(number)
        done.append("to the end")
    except Exception as error:
        raise Wrapped from error


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_work_with_nothing_to_lose_is_left_in_its_middle(number: signal.Signals, status: int) -> None:
    stop, done = StopRequest(), list[str]()
    with stop.listening():
        with pytest.raises(Interrupted) as caught:
            stop.at_once(lambda: work_that_sends(number, done))
        assert (caught.value.reason, caught.value.exit_code) == (number.name, status)
        send(signal.SIGTERM)  # outside the work it is only noted
    assert done == []


def test_work_that_swallows_the_request_is_stopped_at_its_end() -> None:
    stop = StopRequest()

    def swallows() -> None:
        with contextlib.suppress(BaseException):
            send(signal.SIGTERM)

    def breaks() -> None:
        swallows()
        raise Wrapped

    with stop.listening():
        with pytest.raises(Interrupted, match="SIGTERM"):
            stop.at_once(swallows)
        with pytest.raises(Interrupted, match="SIGTERM"):
            stop.at_once(lambda: pytest.fail("it was asked to stop before"))
    stop = StopRequest()
    with stop.listening(), pytest.raises(Interrupted, match="SIGTERM"):
        stop.at_once(breaks)


def test_work_that_is_not_stopped_is_done_and_its_own_errors_are_told() -> None:
    stop, done = StopRequest(60), list[int]()
    with stop.listening():
        stop.at_once(lambda: done.append(1))
        with pytest.raises(ZeroDivisionError):
            stop.at_once(lambda: done.append(1 // 0))
    assert done == [1]


def test_time_that_is_up_ends_such_work_in_its_middle_and_another_timer_goes_on() -> None:
    rung: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    began = time.monotonic()
    other = signal.setitimer(signal.ITIMER_REAL, 0.4)
    try:
        with pytest.raises(Interrupted, match="--max-time is up") as caught:
            StopRequest(0.1).at_once(lambda: time.sleep(30))
        assert time.monotonic() - began < 10
        assert caught.value.exit_code == 0
        while not rung and time.monotonic() - began < 10:
            time.sleep(0.01)
        assert rung
        assert rung[0] - began > 0.3
    finally:
        signal.setitimer(signal.ITIMER_REAL, *other)
        signal.signal(signal.SIGALRM, before)


def test_outside_the_main_thread_such_work_is_done_to_its_end() -> None:
    done: list[str] = []
    stop = StopRequest(0.05)

    def work() -> None:
        time.sleep(0.1)
        done.append("to the end")

    def run() -> None:
        with contextlib.suppress(Interrupted):
            stop.at_once(work)
            done.append("and on")

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert done == ["to the end"]
