"""What a tracker is, and how many of them are served at once.

The training loop knows one object, `Trackers`; each member writes what it is told to its own place. Records are flat
dictionaries of numbers, strings and None:

- `start(info)`: once, before the first step. Keys that trackers understand, all optional: `name` (of the run),
  `total_steps`, `step` (steps already done, above 0 after a resume), `epochs` (length of the run), `recipe` (all of it,
  as a plain dictionary). Trackers may write all of it into the run folder, so it holds no path, user or host.
- `step(record)`: some steps, some steps late: `step`, `epoch` (position, a fraction), `loss`, `top1`, `lr`,
  `images_per_second`, and any other live setting (`momentum`, `resolution` ...).
- `evaluation(record)`: one line of metrics.jsonl: `step`, `epoch`, `lr`, `train_loss`, `train_top1`, `validation_loss`,
  `validation_top1`, `images_per_second`, `seconds` ...
- `result(record)`: once, after the test split has been read at the end: `step`, `test_loss`, `test_top1`, `test_top5`.

`mixed`, in records of steps and evaluations: the share of images that are mixed; above 0 the training accuracy is a weighted one.

`step` counts finished optimizer updates. Accuracies are fractions in [0, 1].
"""

import contextlib
import io
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Record = Mapping[str, Any]
Picture = Path | str | NDArray[np.uint8]  # a PNG file, or uint8 (H, W, 3)


class Tracker:
    """Somewhere to write to. Every method does nothing unless a tracker says otherwise."""

    def start(self, info: Record) -> None:
        """The run begins, or goes on."""

    def step(self, record: Record) -> None:
        """What one step showed: cheap, called often."""

    def evaluation(self, record: Record) -> None:
        """What an evaluation showed."""

    def result(self, record: Record) -> None:
        """What the finished run shows on the test split."""

    def image(self, name: str, picture: Picture, step: int) -> None:
        """A picture worth keeping."""

    def message(self, text: str) -> None:
        """One line that a person should see."""

    def close(self) -> None:
        """The run is over or interrupted: write out and let go. Closing twice is allowed."""


class Trackers(Tracker):
    """Tells each of its members everything. A member that raises is reported once and dropped: the run goes on.

    `essential` members come first, and what they raise ends the run: metrics.jsonl must not lose a line.
    `report` receives the one line that says so; by default it is printed to standard error.
    """

    def __init__(
        self,
        members: Iterable[Tracker],
        report: Callable[[str], None] | None = None,
        *,
        essential: Iterable[Tracker] = (),
    ) -> None:
        self.members = list(members)
        self.essential = list(essential)
        self._report = report or _print_to_stderr

    def start(self, info: Record) -> None:
        self._tell(lambda member: member.start(info))

    def step(self, record: Record) -> None:
        self._tell(lambda member: member.step(record))

    def evaluation(self, record: Record) -> None:
        self._tell(lambda member: member.evaluation(record))

    def result(self, record: Record) -> None:
        self._tell(lambda member: member.result(record))

    def image(self, name: str, picture: Picture, step: int) -> None:
        self._tell(lambda member: member.image(name, picture, step))

    def message(self, text: str) -> None:
        self._tell(lambda member: member.message(text))

    def close(self) -> None:
        self._tell(lambda member: member.close())

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for member in self.essential:
            call(member)
        failed: list[str] = []
        for member in list(self.members):
            try:
                call(member)
            except Exception as error:
                self.members.remove(member)
                failed.append(f"{type(member).__name__} failed and is dropped: {type(error).__name__}: {error}")
                with contextlib.suppress(Exception):  # it may not close either; it has been reported
                    member.close()
        for line in failed:
            with contextlib.suppress(Exception):
                self._report(line)


def as_png(picture: Picture) -> tuple[bytes, int, int]:
    """`picture` as a PNG file, and its width and height in pixels."""
    from PIL import Image

    encoded = io.BytesIO()
    opened = Image.fromarray(picture) if isinstance(picture, np.ndarray) else Image.open(picture)
    with opened as image:
        image.convert("RGB").save(encoded, format="PNG")
        return encoded.getvalue(), *image.size


def _print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
