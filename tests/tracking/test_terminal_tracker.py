"""The terminal: a live bar through a real pseudo-terminal, plain lines through a real pipe."""

import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl

import pytest
from rich.console import Console

from groundup.tracking import TerminalTracker
from groundup.tracking.terminal import clock

PROGRAM = """
import sys, time
from groundup.tracking import TerminalTracker, Trackers
tracker = Trackers([TerminalTracker(quiet_seconds=QUIET)])
tracker.start({"total_steps": 40, "epochs": 2, "step": 0})
tracker.message("compiling [the] model")
for step in range(1, 31):
    tracker.step({"step": step, "epoch": step / 20, "loss": 1.2345, "top1": 0.5, "lr": 0.01,
                  "images_per_second": 5321.0})
    time.sleep(0.02)
    if step == 20:
        tracker.evaluation({"step": 20, "epoch": 1.0, "lr": 0.01, "train_loss": 1.5, "train_top1": 0.4,
                            "validation_loss": 1.25, "validation_top1": 0.625, "images_per_second": 5000,
                            "seconds": 75.2})
time.sleep(0.3)
print("the result")
tracker.close()
"""
EVALUATION = (
    "epoch 1.0/2  step 20/40  train loss 1.500 top-1 40.0%  validation loss 1.250 top-1 62.5%  lr 0.01  5,000 img/s"
    "  after 1:15"
)


def command(quiet_seconds: float = 30) -> list[str]:
    return [sys.executable, "-c", PROGRAM.replace("QUIET", str(quiet_seconds))]


def in_terminal(columns: int, *, stdout: int | None = None, **environment: str) -> str:
    """What the program writes to a pseudo-terminal of 24 lines and `columns` columns."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    clean = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        command(), stdin=theirs, stdout=stdout or theirs, stderr=theirs, env={**clean, "TERM": "xterm", **environment}
    )
    os.close(theirs)
    seen = bytearray()
    while True:
        try:
            block = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not block:
            break
        seen += block
    os.close(ours)
    assert process.wait() == 0
    return seen.decode()


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.fixture(scope="module")
def seen() -> str:
    """The program once, on a terminal of 130 columns."""
    return in_terminal(130)


@pytest.fixture(scope="module")
def piped() -> "subprocess.CompletedProcess[str]":
    """The program once, into two pipes, with colours asked for."""
    environment = {**os.environ, "FORCE_COLOR": "1"}
    return subprocess.run(command(), capture_output=True, text=True, check=True, env=environment)


def test_a_terminal_gets_a_bar_with_loss_accuracy_rate_speed_and_time_left(seen: str) -> None:
    shown = without_codes(seen)
    assert re.search(r"epoch 1\.5/2 ━+.*  75%  loss 1\.234  top-1 50\.0%  lr 0\.01  5,321 img/s  0:0\d left", shown), (
        shown
    )
    assert "\x1b[2K" in seen  # the bar is drawn over itself
    assert seen.count("\x1b[?25h") == seen.count("\x1b[?25l") == 1  # the cursor is given back


def test_evaluations_messages_and_prints_stay_above_the_bar_once(seen: str) -> None:
    shown = without_codes(seen)
    for line in (EVALUATION, "compiling [the] model", "the result"):
        assert shown.count(line) == 1
        assert re.search(re.escape(line) + r"\s*\r?\n", shown)


@pytest.mark.parametrize(("columns", "shown"), [(80, "epoch 1.5/2 ━"), (60, "epoch 1.5/2   75%  loss 1.234")])
def test_the_bar_stays_on_one_line_of_a_narrow_terminal(columns: int, shown: str) -> None:
    output = without_codes(in_terminal(columns))
    bars = [part for part in re.split(r"[\r\n]+", output) if part.startswith("epoch 1.5/2 ")]
    assert bars, output
    assert all(len(bar) <= columns and bar.startswith(shown) and "top-1 50.0%" in bar for bar in bars), bars


def test_a_result_on_standard_output_is_not_drawn_to_the_terminal() -> None:
    reading, writing = os.pipe()
    shown = without_codes(in_terminal(120, stdout=writing))
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        assert stream.read() == b"the result\n"
    assert "the result" not in shown


def test_a_dumb_terminal_gets_plain_lines() -> None:
    assert "\x1b" not in in_terminal(120, TERM="dumb")


def test_a_pipe_gets_one_whole_line_per_evaluation_and_message_and_no_bar(
    piped: "subprocess.CompletedProcess[str]",
) -> None:
    assert piped.stderr == f"compiling [the] model\n{EVALUATION}\n"
    assert piped.stdout == "the result\n"


def test_a_pipe_gets_a_step_line_when_nothing_was_said_for_a_while() -> None:
    done = subprocess.run(command(0.25), capture_output=True, text=True, check=True)
    steps = [line for line in done.stderr.splitlines() if re.match(r"epoch \d\.\d/2  step \d+/40  loss", line)]
    assert 1 <= len(steps) < 15  # of 30 steps; two on an idle machine
    assert all(re.search(r"  loss 1\.234  top-1 50\.0%  lr 0\.01  5,321 img/s  0:\d\d left$", line) for line in steps)


def test_a_reader_that_goes_away_does_not_end_the_run() -> None:
    with subprocess.Popen(command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert process.stdout
        process.stderr.close()
        assert process.stdout.read() == "the result\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("mixed", "label"), [({"mixed": 0.5}, "top-1 (mixed) 40.0%"), ({"mixed": 0.0}, "top-1 40.0%"), ({}, "top-1 40.0%")]
)
def test_the_training_accuracy_under_mixing_is_labelled(mixed: dict[str, float], label: str) -> None:
    lines = io.StringIO()
    tracker = TerminalTracker(Console(file=lines), quiet_seconds=0)
    tracker.step({"step": 10, "loss": 1.5, "top1": 0.4, **mixed})
    evaluated = {"train_loss": 1.5, "train_top1": 0.4, "validation_loss": 1.25, "validation_top1": 0.625}
    tracker.evaluation({"step": 10, **evaluated, **mixed})
    assert lines.getvalue().splitlines() == [
        f"step 10  loss 1.500  {label}",
        f"step 10  train loss 1.500 {label}  validation loss 1.250 top-1 62.5%",
    ]


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")])
def test_times_read_like_a_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
