"""Everything one evaluation says, from the logits and labels of one split.

Fractions lie in [0, 1], `nll` is in nats, the interval is Wilson's at 95% over the images of the split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from groundup.basis.errors import GroundupError
from groundup.evaluation import metrics
from groundup.evaluation.intervals import wilson


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of one model on one split. `tta` names the test-time augmentation (see `tta.TTA`)."""

    split: str
    images: int
    top1: float
    top1_interval: tuple[float, float]
    top5: float
    nll: float
    per_class: list[dict[str, Any]]
    confusion: Tensor  # (C, C) int64, rows are the true classes
    tta: str = "none"

    @classmethod
    def of(
        cls, logits: Tensor, labels: Tensor, class_names: Sequence[str], *, split: str, tta: str = "none"
    ) -> "Evaluation":
        """Score `logits` (N, C) against `labels` (N,); `class_names` holds C names."""
        if logits.ndim == 2 and len(class_names) != logits.shape[1]:
            raise GroundupError(f"{len(class_names)} class names for a model with {logits.shape[1]} outputs")
        hits = int(metrics.correct(logits, labels).sum())
        matrix = metrics.confusion(logits.argmax(1), labels, len(class_names))
        return cls(
            split=split,
            images=len(labels),
            top1=hits / len(labels),
            top1_interval=wilson(hits, len(labels)),
            top5=metrics.top_k(logits, labels, 5),
            nll=metrics.nll(logits, labels),
            per_class=metrics.per_class(matrix, class_names),
            confusion=matrix,
            tta=tta,
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain Python values that `json` can write."""
        return {
            **vars(self),
            "top1_interval": list(self.top1_interval),
            "per_class": [dict(row) for row in self.per_class],
            "confusion": self.confusion.tolist(),
        }

    def __str__(self) -> str:
        low, high = self.top1_interval
        view = "" if self.tta == "none" else f" with {self.tta} test-time augmentation"
        return (
            f"{self.split} top-1 {self.top1:.2%} (95% interval {low:.2%} to {high:.2%}), top-5 {self.top5:.2%}, "
            f"{self.images:,} images{view}"
        )
