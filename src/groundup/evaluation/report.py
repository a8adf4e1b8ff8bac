"""Everything one evaluation says, from the logits and labels of one split.

Fractions lie in [0, 1], `nll` is in nats. Intervals are at 95% over the images of the split: Wilson's, but for
`macro_accuracy`, which weighs every class alike, whatever its number of images, and has a bootstrap's (None for a single image).
What is said of superclasses (see `superclasses`) needs a map from classes to them and is None without one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from groundup.basis.errors import GroundupError
from groundup.basis.seeding import generator
from groundup.evaluation import metrics
from groundup.evaluation.intervals import bootstrap, wilson
from groundup.evaluation.superclasses import CoarseMap, per_superclass, superclass_confusion


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of one model on one split. `tta` names the test-time augmentation (see `tta.TTA`)."""

    split: str
    images: int
    top1: float
    top1_interval: tuple[float, float]
    top5: float
    top5_interval: tuple[float, float]
    nll: float
    macro_accuracy: float
    macro_interval: tuple[float, float] | None
    per_class: list[dict[str, Any]]
    confusion: Tensor  # (C, C) int64, rows are the true classes
    tta: str = "none"
    superclass_accuracy: float | None = None
    superclass_interval: tuple[float, float] | None = None
    per_superclass: list[dict[str, Any]] | None = None
    superclass_confusion: Tensor | None = None  # (K, K) int64, rows are the true superclasses

    @classmethod
    def of(
        cls,
        logits: Tensor,
        labels: Tensor,
        class_names: Sequence[str],
        *,
        split: str,
        tta: str = "none",
        coarse_of_fine: CoarseMap | None = None,
        superclass_names: Sequence[str] | None = None,
    ) -> "Evaluation":
        """Score `logits` (N, C) against `labels` (N,); `class_names` holds C names.

        coarse_of_fine: the superclass of each class, C integers in [0, K); superclass_names: K names.
        """
        if logits.ndim == 2 and len(class_names) != logits.shape[1]:
            raise GroundupError(f"{len(class_names)} class names for a model with {logits.shape[1]} outputs")
        predictions = logits.argmax(1)
        matrix = metrics.confusion(predictions, labels, len(class_names))
        kinds = {} if coarse_of_fine is None else _of_superclasses(matrix, coarse_of_fine, superclass_names)
        return cls(
            split=split,
            **headline(logits, labels),
            macro_accuracy=metrics.macro_accuracy(predictions, labels),
            macro_interval=_macro_interval(predictions, labels),
            per_class=metrics.per_class(matrix, class_names),
            confusion=matrix,
            tta=tta,
            **kinds,
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain Python values that `json` can write."""
        return {
            **vars(self),
            "top1_interval": list(self.top1_interval),
            "top5_interval": list(self.top5_interval),
            "macro_interval": None if self.macro_interval is None else list(self.macro_interval),
            "per_class": [dict(row) for row in self.per_class],
            "confusion": self.confusion.tolist(),
            "superclass_interval": None if self.superclass_interval is None else list(self.superclass_interval),
            "superclass_confusion": None if self.superclass_confusion is None else self.superclass_confusion.tolist(),
        }

    def __str__(self) -> str:
        low, high = self.top1_interval
        view = "" if self.tta == "none" else f" with {self.tta} test-time augmentation"
        return (
            f"{self.split} top-1 {self.top1:.2%} (95% interval {low:.2%} to {high:.2%}), top-5 {self.top5:.2%}, "
            f"{self.images:,} images{view}"
        )


def headline(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """What the result of every run says of `logits` (N, C) against `labels` (N,): `images`, `top1`, `top5`, their intervals, `nll`.
    An `Evaluation` says more, but draws the images a thousand times for it."""
    hits, top5 = int(metrics.correct(logits, labels).sum()), metrics.top_k(logits, labels, 5)
    return {
        "images": len(labels),
        "top1": hits / len(labels),
        "top1_interval": wilson(hits, len(labels)),
        "top5": top5,
        "top5_interval": wilson(round(top5 * len(labels)), len(labels)),
        "nll": metrics.nll(logits, labels),
    }


def _macro_interval(predictions: Tensor, labels: Tensor) -> tuple[float, float] | None:
    if len(labels) < 2:
        return None
    return bootstrap(
        lambda drawn: metrics.macro_accuracy(predictions[drawn], labels[drawn]),
        len(labels),
        generator=generator("macro interval"),
        within=(0.0, 1.0),
    )


def _of_superclasses(matrix: Tensor, coarse_of_fine: CoarseMap, names: Sequence[str] | None) -> dict[str, Any]:
    coarse = superclass_confusion(matrix, coarse_of_fine)
    hits, images = int(coarse.diagonal().sum()), int(coarse.sum())
    return {
        "superclass_accuracy": hits / images,
        "superclass_interval": wilson(hits, images),
        "per_superclass": per_superclass(matrix, coarse_of_fine, names),
        "superclass_confusion": coarse,
    }
