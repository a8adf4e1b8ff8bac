"""Binary cross-entropy: for every class by itself, whether the image shows it; in float32, as a sum and a denominator.

    logits, labels, class_weights, and how micro-batches add up: as in `losses.py`.
    loss of an image    sum over the classes of -(t log p + (1 - t) log(1 - p)),  p = sigmoid(logit)
    loss of the batch   mean over its images, each with the weight that its label carries

Targets  t is 1 for the image's class and 0 else, or its shares under mixing. `threshold` makes shares above it 1 and the others 0:
         the image shows both. Then smoothing s: (1 - s) t + s / C.
Sum      over the classes, not their mean: for every logit the gradient is p - t, as that of cross-entropy, and rates keep their
         scale. The mean, timm's default, is this divided by C: AdamW and LAMB hardly notice, SGD would need C times the rate.
Source   R. Wightman, H. Touvron, H. Jegou, "ResNet strikes back: An improved training procedure in timm" (arXiv 2110.00476).
Differs  The threshold comes before smoothing, so that both act: in timm it comes after, and undoes a smoothing below it.
Values   threshold 0.2 with cutmix 1.0 and mixup 0.1 (A2, A3) or 0.2 (A1) for ResNet-50 on ImageNet; 0 makes every class
         in the mixture 1.
Hurts    confidences: evaluation reads the logits through a softmax, which this loss does not train, so `validation_loss` and
         probabilities are off; accuracies are not touched. The first loss is C log 2: a gradient clipped by norm feels it.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from groundup.optim.losses import BaseLossSettings, image_weights


def binary_targets(
    labels: Tensor, classes: int, label_smoothing: float = 0.0, threshold: float | None = None
) -> Tensor:
    """What every logit is asked for, float32 (N, classes) in [0, 1]. Class numbers are 1 already: no threshold touches them."""
    if not labels.is_floating_point():
        targets = (labels[:, None] == torch.arange(classes, device=labels.device)).float()
    else:
        targets = labels.float() if threshold is None else (labels > threshold).float()
    return targets * (1 - label_smoothing) + label_smoothing / classes if label_smoothing else targets


def binary_loss_parts(
    logits: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    *,
    threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(loss_sum, denominator), both float32 scalars on the device of `logits`; their ratio is the loss of the batch."""
    targets = binary_targets(labels, logits.shape[1], label_smoothing, threshold)
    per_image = functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").sum(1)
    weights = image_weights(labels, class_weights)
    return (per_image * weights).sum(), weights.sum()


class BinaryCrossEntropySettings(BaseLossSettings):
    """Binary cross-entropy of every class by itself, summed over the classes."""

    name: Literal["binary_cross_entropy"] = Field(description="Binary cross-entropy of every class by itself.")
    threshold: float | None = Field(
        None,
        ge=0,
        lt=0.5,
        description="Under mixing, shares above this become 1 and the others 0; null keeps the shares. "
        "Below 0.5, so that one of two classes is always left.",
    )

    def parts(
        self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return binary_loss_parts(logits, labels, label_smoothing, class_weights, threshold=self.threshold)
