"""Reading the loss some steps late, so that no step waits for it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from groundup.basis.errors import GroundupError
from groundup.tracking import Trackers
from groundup.training.state import TrainingState

CALM = "lower the schedule's learning rate, lengthen its warm-up, or set train.clip_norm=1"


class NonFiniteLoss(GroundupError):
    """The loss became infinite or not a number."""


class LossWatch:
    """Reports the loss of every `every`-th step, and ends the run when it is not finite.

    `describe`: what else to report of the step just made, known without asking the device.
    """

    def __init__(self, trackers: Trackers, every: int, describe: Callable[[TrainingState], dict[str, Any]]) -> None:
        self._trackers = trackers
        self._every = every
        self._describe = describe
        self._pending: Pending | None = None
        self._last: tuple[Moment, int] | None = None  # when, and how many images had been trained on

    def saw(self, state: TrainingState, loss: Tensor) -> None:
        """Take note of the loss of the step just made, and of the accuracy since the last line of metrics.jsonl."""
        if state.step % self._every:
            return
        self.catch_up()
        numbers = torch.stack([loss.detach().to(state.sums.values), *state.sums.values[2:4]])
        self._pending = Pending.of(self._describe(state), numbers, state.images)

    def leave_out(self, state: TrainingState) -> None:
        """The time since the last step, spent on an evaluation or a checkpoint, counts for no speed."""
        if self._last is not None:
            self._last = (moment(state.sums.values.device), state.images)

    def _speed(self, pending: "Pending") -> dict[str, float]:
        before, self._last = self._last, (pending.arrived, pending.images)
        if before is None:
            return {}
        return {"images_per_second": (pending.images - before[1]) / seconds_between(before[0], pending.arrived)}

    def catch_up(self) -> None:
        """Report what is pending. `NonFiniteLoss` says where the run diverged."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        record, (loss, correct, images) = pending.read()
        record |= self._speed(pending)
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"the loss is {loss} at step {record['step']} "
                f"(epoch {record['epoch']:.2f}, learning rate {record['lr']:.4g})",
                hint=CALM,
            )
        self._trackers.step({**record, "loss": loss, "top1": correct / images})


Moment = float | torch.cuda.Event


def moment(device: torch.device) -> Moment:
    """Now: on a GPU the moment at which it will have done what it was given so far, else the host's seconds."""
    if device.type != "cuda":
        return time.perf_counter()
    reached = torch.cuda.Event(enable_timing=True)
    reached.record()
    return reached


def seconds_between(before: Moment, after: Moment) -> float:
    """Seconds from one moment to another of the same device, which has come to both."""
    if isinstance(before, float) and isinstance(after, float):
        return after - before
    return before.elapsed_time(after) / 1000  # type: ignore[union-attr, arg-type]


@dataclass(frozen=True)
class Pending:
    """Numbers on their way from the device to the host, the record that they belong to, the images trained on by then, and when
    they have arrived."""

    record: dict[str, Any]
    numbers: Tensor
    images: int
    arrived: Moment

    @classmethod
    def of(cls, record: dict[str, Any], numbers: Tensor, images: int) -> "Pending":
        if numbers.device.type != "cuda":
            numbers = numbers.cpu()  # waits where it has to
            return cls(record, numbers, images, moment(numbers.device))
        copied = numbers.to("cpu", non_blocking=True)
        return cls(record, copied, images, moment(numbers.device))

    def read(self) -> tuple[dict[str, Any], list[float]]:
        """The record and its numbers. By now the device has long sent them; if not, this waits."""
        if not isinstance(self.arrived, float):
            self.arrived.synchronize()
        return self.record, self.numbers.tolist()
