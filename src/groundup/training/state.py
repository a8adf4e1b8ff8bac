"""Everything the loop has to remember: what a checkpoint holds, and nothing that follows from (recipe, seed, step)."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from groundup.optim import Memory
from groundup.training.average import Average


@dataclass
class Sums:
    """Running sums since the last line of metrics.jsonl, float64 on the device so that no step waits for them.

    `values`: (loss x weight, weight, correct, images, skipped updates).
    """

    values: Tensor

    @classmethod
    def zeros(cls, device: torch.device) -> "Sums":
        # MPS has no float64.
        return cls(torch.zeros(5, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device))

    @property
    def images(self) -> int:
        """Images since the last line. Waits for the device."""
        return int(self.values[3])

    def read(self) -> dict[str, float]:
        """The means so far. Waits for the device."""
        loss, weight, correct, images, skipped = self.values.tolist()
        return {
            "train_loss": loss / weight if weight else float("nan"),
            "train_top1": correct / images if images else float("nan"),
            "skipped_updates": skipped,
        }


@dataclass
class TrainingState:
    """The state of a run after `step` optimizer updates.

    `seconds`: time spent in training steps; `images`: trained on so far; `flops`: 3 x the forward pass, counted from the model;
    `evaluated_at`: the step of the last line in metrics.jsonl; `best`: the best line on validation so far; `schedule`: what
    stateful schedules remember; `watched`: what early stopping remembers; `ended`: why the run ended before its length;
    `average`: the average of the weights, None if there is none; `reports_average`: whether it is what the run reports.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    sums: Sums
    step: int = 0
    seconds: float = 0.0
    images: int = 0
    flops: int = 0
    skipped_updates: int = 0
    evaluated_at: int = -1
    best: dict[str, Any] | None = None
    schedule: Memory = field(default_factory=dict)
    watched: dict[str, float] = field(default_factory=dict)
    ended: str | None = None
    average: Average | None = None
    reports_average: bool = False

    _NUMBERS = (
        *("step", "seconds", "images", "flops", "skipped_updates", "evaluated_at"),
        *("best", "schedule", "watched", "ended"),
    )

    @property
    def averaged(self) -> bool:
        """Whether there is an average with at least one sample in it."""
        return self.average is not None and self.average.ready

    def to_dict(self) -> dict[str, Any]:
        """Everything but the weights, as tensors and plain values that `torch.load(weights_only=True)` accepts."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "sums": self.sums.values,
            "average": {} if self.average is None else self.average.to_dict(),
            "numbers": {name: getattr(self, name) for name in self._NUMBERS},
        }

    def load_dict(self, saved: dict[str, Any]) -> None:
        """Take over what `to_dict` gave, in place where it is a tensor, so that a resume meets the same memory layout."""
        self.optimizer.load_state_dict(saved["optimizer"])
        if saved["scaler"]:
            self.scaler.load_state_dict(saved["scaler"])
        self.sums.values.copy_(saved["sums"])
        if self.average is not None:
            self.average.load_dict(saved["average"])
        for name, value in saved["numbers"].items():
            setattr(self, name, value)
