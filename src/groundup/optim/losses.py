"""Cross-entropy with label smoothing and class weights, in float32, as a sum and a denominator; what all losses share.

    logits        float (N, C), any precision
    labels        int64 (N,), class numbers; or float (N, C), a distribution over the classes per image
    class_weights float32 (C,), or None

The loss of a batch is loss_sum / denominator. Over micro-batches the sums and the denominators add up, so that the loss
of an accumulated batch is that of the whole batch, with class weights and with a short last micro-batch too.
The denominator is the weight that the labels carry (without class weights: the number of images), as in torch for
class numbers. For distributions with class weights torch divides by N instead; here a one-hot label and its class
number give the same loss.

Source   label smoothing: Szegedy et al., "Rethinking the Inception Architecture" (2016), torch's form: with smoothing s
         the target is (1 - s) * one-hot + s / C. Balanced weights: scikit-learn's class_weight="balanced".
Values   smoothing 0.1 on ImageNet, 0.2 to 0.4 in the CIFAR speed records.
Hurts    label smoothing: the test loss and the confidences, which no longer mean probabilities.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from groundup.basis.errors import UsageError, listed
from groundup.basis.settings import Settings

# (logits, labels, label_smoothing, class_weights) -> (loss_sum, denominator), all as above.
LossParts = Callable[[Tensor, Tensor, float, Tensor | None], tuple[Tensor, Tensor]]


def loss_parts(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(loss_sum, denominator), both float32 scalars on the device of `logits`; their ratio is the loss of the batch."""
    loss_sum = functional.cross_entropy(
        logits.float(), labels, weight=class_weights, label_smoothing=label_smoothing, reduction="sum"
    )
    return loss_sum, image_weights(labels, class_weights).sum()


def image_weights(labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """The weight that the label of each image carries, float32 (N,): 1 without class weights."""
    if class_weights is None:
        return torch.ones(len(labels), device=labels.device)
    return labels @ class_weights if labels.is_floating_point() else class_weights[labels]


def cross_entropy(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """The loss of a batch: the mean over its images, weighted by `class_weights` where given. A float32 scalar."""
    loss_sum, denominator = loss_parts(logits, labels, label_smoothing, class_weights)
    return loss_sum / denominator


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """N / (classes * count), float32 (classes,): every class of `labels`, int64 (N,), counts the same."""
    counts = torch.bincount(labels.cpu(), minlength=classes)
    if absent := [str(label) for label in (counts == 0).nonzero().flatten().tolist()]:
        raise UsageError(
            f"loss.class_weights='balanced': no training images of class {listed(absent)}; "
            "allowed: 'none' unless every class has images",
            hint="set loss.class_weights=none, or add images of these classes",
        )
    return (len(labels) / (classes * counts.double())).float()


class BaseLossSettings(Settings):
    """Base of all loss settings. `label_smoothing` is live: a phase may change it, so `parts` is told its value."""

    name: str = Field(description="Which loss.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the target spread evenly over all classes, in [0, 1)."
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="Weights of the classes: none, or balanced (each class counts the same, whatever its size)."
    )

    @abstractmethod
    def parts(
        self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(loss_sum, denominator), both float32 scalars on the device of `logits`; their ratio is the loss of the batch."""

    def weights(self, train_labels: Tensor, classes: int) -> Tensor | None:
        """The class weights, float32 (classes,) on the CPU, from the training labels, int64 (N,); None if off."""
        return balanced_weights(train_labels, classes) if self.class_weights == "balanced" else None


class CrossEntropySettings(BaseLossSettings):
    """Cross-entropy over the classes."""

    name: Literal["cross_entropy"] = Field("cross_entropy", description="Cross-entropy over the classes.")

    def parts(
        self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return loss_parts(logits, labels, label_smoothing, class_weights)
