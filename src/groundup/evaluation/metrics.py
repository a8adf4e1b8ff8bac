"""How often, and how surely, a classifier is right: top-k accuracy, confusion matrix, recall and precision, loss.

Shapes: `logits` (N, C) floating point, `labels` and `predictions` (N,) int64 class indices in [0, C). Accuracies are
fractions in [0, 1]. Plain torch: importing torchmetrics takes longer than the arithmetic; the tests hold the numbers against it.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from groundup.basis.errors import GroundupError
from groundup.evaluation.intervals import wilson


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the highest logit is that of the label: bool (N,). Paired tests compare two of these."""
    require_scores(logits, labels)
    return logits.argmax(1) == labels


def top_k(logits: Tensor, labels: Tensor, k: int) -> float:
    """The fraction of images whose label is among the `k` highest logits; `k` above C means all C classes."""
    require_scores(logits, labels)
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return int((best == labels[:, None]).sum()) / len(labels)


def nll(logits: Tensor, labels: Tensor) -> float:
    """The mean negative log-likelihood (cross-entropy without label smoothing or class weights), in nats."""
    require_scores(logits, labels)
    return float(F.cross_entropy(logits.double(), labels))


def macro_accuracy(predictions: Tensor, labels: Tensor) -> float:
    """The mean over classes of the share of their images that is right; classes without images are left out."""
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ValueError(
            f"need predictions (N,) and labels (N,), got {tuple(predictions.shape)}, {tuple(labels.shape)}"
        )
    if len(labels) == 0:
        raise GroundupError("there is nothing to score: 0 images", hint="check that the split is not empty")
    images = torch.bincount(labels)
    right = torch.bincount(labels[predictions == labels], minlength=len(images))
    there = images > 0
    return float((right[there].double() / images[there]).mean())


def confusion(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How many images of class i were taken for class j: int64 (C, C), rows are the true classes."""
    return torch.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)


def per_class(confusion: Tensor, class_names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Per class: its name (its index without `class_names`), number of images, recall with Wilson's 95% interval, precision.

    A ratio with nothing to divide by (a class without images, or one never predicted) is None.
    """
    hits, images, predicted = (row.tolist() for row in (confusion.diagonal(), confusion.sum(1), confusion.sum(0)))
    return [
        {
            "class": class_names[index] if class_names else index,
            "images": images[index],
            "recall": hits[index] / images[index] if images[index] else None,
            "recall_interval": list(wilson(hits[index], images[index])) if images[index] else None,
            "precision": hits[index] / predicted[index] if predicted[index] else None,
        }
        for index in range(len(hits))
    ]


def require_scores(logits: Tensor, labels: Tensor) -> None:
    """Raise unless `logits` are (N, C), `labels` (N,), and N is not 0."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"need logits (N, C) and labels (N,), got {tuple(logits.shape)} and {tuple(labels.shape)}")
    if len(labels) == 0:
        raise GroundupError("there is nothing to score: 0 images", hint="check that the split is not empty")
