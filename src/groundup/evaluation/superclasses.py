"""Superclasses: how often at least the kind is right (a shark taken for a ray, both fish), and which kinds are confused.

Shapes   logits (N, C), labels int64 (N,) of fine classes; `coarse_of_fine`: C integers in [0, K), the superclass of each class, as
         the 20 superclasses of CIFAR-100's 100 classes (A. Krizhevsky, Learning multiple layers of features from tiny
         images, 2009).
Here     a prediction counts as right if the superclass of the highest logit is that of the label. Nothing is trained or summed
         over superclasses; adding up their probabilities would be another predictor.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from groundup.basis.errors import GroundupError, UsageError
from groundup.evaluation.metrics import require_scores

CoarseMap = Sequence[int] | Tensor


def superclass_accuracy(logits: Tensor, labels: Tensor, coarse_of_fine: CoarseMap) -> float:
    """The share of images whose predicted class lies in the superclass of their label; never below the top-1 accuracy."""
    require_scores(logits, labels)
    coarse = _checked(coarse_of_fine, logits.shape[1])
    return int((coarse[logits.argmax(1)] == coarse[labels]).sum()) / len(labels)


def superclass_confusion(confusion: Tensor, coarse_of_fine: CoarseMap) -> Tensor:
    """The confusion matrix (C, C) of the classes added up to one of the superclasses, int64 (K, K); rows are the true ones."""
    coarse = _checked(coarse_of_fine, len(confusion))
    count = int(coarse.max()) + 1
    rows = torch.zeros(count, len(confusion), dtype=torch.int64).index_add_(0, coarse, confusion)
    return torch.zeros(count, count, dtype=torch.int64).index_add_(1, coarse, rows)


def per_superclass(
    confusion: Tensor, coarse_of_fine: CoarseMap, names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Per superclass: name (index without `names`), number of images, and shares that add up to 1.

    `right`: the very class; `within`: another class of the same superclass; `outside`: another superclass. None for a
    superclass without images.
    """
    coarse = _checked(coarse_of_fine, len(confusion))
    matrix = superclass_confusion(confusion, coarse)
    if names is not None and len(names) != len(matrix):
        raise GroundupError(f"{len(names)} names for {len(matrix)} superclasses")
    hits = torch.zeros(len(matrix), dtype=torch.int64).index_add_(0, coarse, confusion.diagonal().long())
    rows = []
    for index, (images, kind, right) in enumerate(
        zip(matrix.sum(1).tolist(), matrix.diagonal().tolist(), hits.tolist(), strict=True)
    ):
        shares = {"right": right, "within": kind - right, "outside": images - kind}
        rows.append(
            {
                "superclass": names[index] if names else index,
                "images": images,
                **{key: value / images if images else None for key, value in shares.items()},
            }
        )
    return rows


def _checked(coarse_of_fine: CoarseMap, classes: int) -> Tensor:
    coarse = torch.as_tensor(coarse_of_fine)
    if coarse.ndim != 1 or coarse.is_floating_point():
        raise ValueError(f"coarse_of_fine must be one integer per class, got {coarse.dtype} {tuple(coarse.shape)}")
    if len(coarse) != classes:
        raise UsageError(
            f"coarse_of_fine has {len(coarse)} entries for {classes} classes",
            hint="give the superclass of every class, in the order of the class names",
        )
    if classes == 0 or int(coarse.min()) < 0:
        raise UsageError(f"coarse_of_fine holds {coarse.tolist()}; superclasses are counted from 0")
    return coarse.long().cpu()
