"""The run as a person at the terminal sees it: a live bar, or plain lines where there is no terminal.

On a terminal: one bar at the bottom with epoch, loss, accuracy, learning rate, images/s and time left; evaluations and
messages scroll above it. Into a pipe or file: one line per evaluation and message, and a step line at most every
30 seconds. Everything goes to standard error, so that standard output carries results alone.
"""

import contextlib
import os
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from groundup.tracking.base import Record, Tracker
from groundup.tracking.scalars import is_mixed


class TerminalTracker(Tracker):
    """Shows the run on `console` (standard error by default). `quiet_seconds`: least time before a plain step line."""

    def __init__(self, console: Console | None = None, quiet_seconds: float = 30.0) -> None:
        self.console = console or _Console(stderr=True)
        self._quiet_seconds = quiet_seconds
        self._last_line = time.monotonic()
        self._total: int | None = None
        self._epochs: float | None = None
        self._pace: deque[tuple[float, int]] = deque(maxlen=100)
        self._bar = _Bar()
        self._live: Live | None = None

    def start(self, info: Record) -> None:
        self.close()
        self._total, self._epochs = info.get("total_steps"), info.get("epochs")
        self._pace.clear()
        self._last_line = time.monotonic()
        if is_live(self.console):
            self._bar = _Bar(self._total, done=info.get("step", 0))
            self._live = _live(self._bar, self.console)
            self._live.start()

    def step(self, record: Record) -> None:
        step = int(record["step"])
        self._pace.append((time.monotonic(), step))
        if self._live:
            self._bar.done, self._bar.where = step, self._where(record)
            self._bar.numbers = _joined(_measured(record), self._time_left())
        elif time.monotonic() - self._last_line >= self._quiet_seconds:
            self._print(_joined(self._where(record), self._step_of_total(step), _measured(record), self._time_left()))

    def evaluation(self, record: Record) -> None:
        splits = [_split_numbers(split, record) for split in ("train", "validation", "average_validation", "test")]
        took = f"after {clock(record['seconds'])}" if record.get("seconds") is not None else ""
        step = self._step_of_total(int(record["step"]))
        live = {key: record.get(key) for key in ("lr", "images_per_second")}
        self._print(_joined(self._where(record), step, *splits, _measured(live), took))

    def message(self, text: str) -> None:
        self._print(text)

    def close(self) -> None:
        if self._live:
            live, self._live = self._live, None
            live.stop()

    def _print(self, line: str) -> None:
        self._last_line = time.monotonic()
        self.console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)

    def _where(self, record: Record) -> str:
        if record.get("epoch") is None:
            return ""
        return f"epoch {record['epoch']:.1f}" + (f"/{self._epochs:g}" if self._epochs else "")

    def _step_of_total(self, step: int) -> str:
        return f"step {step}" + (f"/{self._total}" if self._total else "")

    def _time_left(self) -> str:
        """Time to the end at the pace of the last steps that were told, evaluations between them included."""
        (first_time, first_step), (last_time, last_step) = self._pace[0], self._pace[-1]
        if not self._total or last_step <= first_step:
            return ""
        left = (self._total - last_step) * (last_time - first_time) / (last_step - first_step)
        return f"{clock(left)} left"


class _Console(Console):
    """A console whose reader may go away: rich's own ends the process then, here the tracker fails and is dropped."""

    def on_broken_pipe(self) -> None:
        # What is left in the buffer would fail again when Python ends, and make its exit status 120.
        with contextlib.suppress(OSError), open(os.devnull, "w") as nobody:
            os.dup2(nobody.fileno(), self.file.fileno())
        raise BrokenPipeError("nobody reads the terminal output any more")


def is_live(console: Console) -> bool:
    """Whether a moving bar makes sense: a real terminal, whatever FORCE_COLOR says, that can move its cursor."""
    return console.is_interactive and console.file.isatty()


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass
class _Bar:
    """One line: where the run is, a bar, the numbers. A narrow terminal loses the bar first, then the last numbers."""

    total: int | None = None
    done: int = 0
    where: str = "starting"
    numbers: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        share = f"{self.done / self.total:4.0%}" if self.total else ""
        ends = [Text(part, no_wrap=True) for part in (self.where, _joined(share, self.numbers))]
        room = options.max_width - sum(text.cell_len for text in ends) - 2
        if room < 5:
            yield Text("  ", no_wrap=True, overflow="ellipsis", end="").join(ends)
            return
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(ends[0], ProgressBar(self.total, self.done, width=min(room, 40), pulse=not self.total), ends[1])
        yield line


def _live(bar: _Bar, console: Console) -> Live:
    return Live(
        bar,
        console=console,
        transient=True,
        refresh_per_second=4,
        # Where standard output is no terminal it carries a result, which must not be drawn above the bar.
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=sys.stderr.isatty(),
    )


def _measured(record: Record) -> str:
    """Loss, accuracy, learning rate and speed of a step, as far as they are there."""
    top1 = "top-1 (mixed) {:.1%}" if is_mixed(record) else "top-1 {:.1%}"
    shown = {"loss": "loss {:.3f}", "top1": top1, "lr": "lr {:.3g}", "images_per_second": "{:,.0f} img/s"}
    return _joined(*(text.format(record[key]) for key, text in shown.items() if record.get(key) is not None))


def _split_numbers(split: str, record: Record) -> str:
    named: dict[str, Any] = {key: record.get(f"{split}_{key}") for key in ("loss", "top1")}
    if split == "train":
        named["mixed"] = record.get("mixed")
    numbers = _measured(named)
    if record.get("validation_is_test"):
        split = split.replace("validation", "test (optimistic)")
    return f"{split.replace('_', ' on ')} {numbers.replace('  ', ' ')}" if numbers else ""


def _joined(*parts: str) -> str:
    return "  ".join(part for part in parts if part)
