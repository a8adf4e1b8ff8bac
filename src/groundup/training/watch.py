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
        self._last: tuple[float, int] | None = None

    def saw(self, state: TrainingState, loss: Tensor) -> None:
        """Take note of the loss of the step just made, and of the accuracy since the last line of metrics.jsonl."""
        if state.step % self._every:
            return
        self.catch_up()
        record = {**self._describe(state), **self._speed(state)}
        self._pending = Pending.of(record, torch.stack([loss.detach().to(state.sums.values), *state.sums.values[2:4]]))

    def leave_out(self, state: TrainingState) -> None:
        """The time since the last step, spent on an evaluation or a checkpoint, counts for no speed."""
        if self._last is not None:
            self._last = (time.perf_counter(), state.images)

    def _speed(self, state: TrainingState) -> dict[str, float]:
        now, before = (time.perf_counter(), state.images), self._last
        self._last = now
        return {"images_per_second": (now[1] - before[1]) / (now[0] - before[0])} if before else {}

    def catch_up(self) -> None:
        """Report what is pending. `NonFiniteLoss` says where the run diverged."""
        if self._pending is None:
            return
        (record, (loss, correct, images)), self._pending = self._pending.read(), None
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"the loss is {loss} at step {record['step']} "
                f"(epoch {record['epoch']:.2f}, learning rate {record['lr']:.4g})",
                hint=CALM,
            )
        self._trackers.step({**record, "loss": loss, "top1": correct / images})


@dataclass(frozen=True)
class Pending:
    """Numbers on their way from the device to the host, and the record that they belong to."""

    record: dict[str, Any]
    numbers: Tensor
    arrived: torch.cuda.Event | None

    @classmethod
    def of(cls, record: dict[str, Any], numbers: Tensor) -> "Pending":
        if numbers.device.type != "cuda":
            return cls(record, numbers.cpu(), None)
        copied, arrived = numbers.to("cpu", non_blocking=True), torch.cuda.Event()
        arrived.record()
        return cls(record, copied, arrived)

    def read(self) -> tuple[dict[str, Any], list[float]]:
        """The record and its numbers. By now the device has long sent them; if not, this waits."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.record, self.numbers.tolist()
