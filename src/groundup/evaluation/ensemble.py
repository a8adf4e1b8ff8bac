"""Several networks asked together, and how much they differ.

Shapes   one float (N, C) of logits per member, all of the same images in the same order.
Source   B. Lakshminarayanan et al., Simple and scalable predictive uncertainty estimation using deep ensembles, 2017: members that
         differ in their seed alone, the mean of their probabilities.
Here     the mean of probabilities, not of logits: a member that is unsure about an image counts less for it than a sure one
         only as far as its probabilities say so, whatever the scale of its logits.
Values   3 to 5 members give most of what there is to gain.
Cost     training and every prediction, times the number of members (`ensemble_cost`). The accuracy of an ensemble is not that of
         a network: it is labelled with the number of members, and compared at equal cost.
Hurts    members that never disagree add cost alone; see `diversity`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from groundup.basis.errors import UsageError, unknown_name
from groundup.evaluation.metrics import require_scores
from groundup.evaluation.tta import TTA_COST


def ensemble(logits: Sequence[Tensor]) -> Tensor:
    """The log of the mean over members of the probabilities: float32 (N, C); it serves wherever logits do."""
    _require_members(logits)
    # One member at a time: all at once would need as many copies.
    total = torch.log_softmax(logits[0].double(), dim=1)
    for member in logits[1:]:
        total = torch.logaddexp(total, torch.log_softmax(member.double(), dim=1))
    return (total - math.log(len(logits))).float()


def ensemble_cost(tta: Sequence[str]) -> int:
    """Forward passes per image of an ensemble; `tta` names the test-time augmentation of each member."""
    for name in tta:
        if name not in TTA_COST:
            raise unknown_name("tta", name, list(TTA_COST))
    return sum(TTA_COST[name] for name in tta)


@dataclass(frozen=True)
class Diversity:
    """How the members of an ensemble differ in the classes they predict. Shares of images in [0, 1]."""

    members: int
    accuracies: tuple[float, ...]  # of each member
    ensemble_accuracy: float
    disagreement: float  # that two members predict different classes, mean over pairs
    pairs: tuple[tuple[float, ...], ...]  # the same for each pair, (M, M), 0 on the diagonal
    all_right: float
    none_right: float  # no choice among the members could be right

    @property
    def gain(self) -> float:
        """Accuracy of the ensemble less the mean of its members."""
        return self.ensemble_accuracy - sum(self.accuracies) / self.members

    def to_dict(self) -> dict[str, Any]:
        """The same as plain Python values that `json` can write."""
        return {
            **asdict(self),
            "accuracies": list(self.accuracies),
            "pairs": [list(row) for row in self.pairs],
            "gain": self.gain,
        }

    def __str__(self) -> str:
        low, high = min(self.accuracies), max(self.accuracies)
        return (
            f"ensemble of {self.members}: top-1 {self.ensemble_accuracy:.2%}, members {low:.2%} to {high:.2%}; "
            f"two members disagree on {self.disagreement:.2%} of the images, all are right on {self.all_right:.2%}, "
            f"none on {self.none_right:.2%}"
        )


def diversity(logits: Sequence[Tensor], labels: Tensor) -> Diversity:
    """The accuracies of the members and of their ensemble, and the shares of images on which they differ."""
    _require_members(logits)
    require_scores(logits[0], labels)
    predictions = torch.stack([member.argmax(1) for member in logits])  # (M, N)
    right = predictions == labels
    pairs = [[float((one != other).double().mean()) for other in predictions] for one in predictions]
    members = len(logits)
    return Diversity(
        members=members,
        accuracies=tuple(right.double().mean(1).tolist()),
        ensemble_accuracy=float((ensemble(logits).argmax(1) == labels).double().mean()),
        disagreement=sum(map(sum, pairs)) / (members * (members - 1)) if members > 1 else 0.0,
        pairs=tuple(tuple(row) for row in pairs),
        all_right=float(right.all(0).double().mean()),
        none_right=float((~right.any(0)).double().mean()),
    )


def _require_members(logits: Sequence[Tensor]) -> None:
    if not logits:
        raise UsageError("an ensemble needs at least one member", hint="name the runs it is made of")
    for index, member in enumerate(logits):
        if member.ndim != 2:
            raise ValueError(f"need logits (N, C), got {tuple(member.shape)}")
        if member.shape != logits[0].shape:
            raise UsageError(
                f"member {index + 1} of the ensemble has logits of shape {tuple(member.shape)}, "
                f"the first {tuple(logits[0].shape)}",
                hint="members must be evaluated on the same images and know the same classes",
            )
