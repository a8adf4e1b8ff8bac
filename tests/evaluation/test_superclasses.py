"""Superclasses: right in kind, and the confusion of kinds."""

import pytest
import torch
from torch import Tensor

from groundup.basis.errors import GroundupError, UsageError
from groundup.evaluation import Evaluation, confusion, per_superclass, superclass_accuracy, superclass_confusion

COARSE = [0, 0, 1, 1, 2]  # cat, dog | oak, elm | car
PREDICTED = torch.tensor([0, 1, 1, 2, 2, 3, 0])
LABELS = torch.tensor([0, 0, 1, 2, 3, 0, 2])


def scores(predictions: Tensor = PREDICTED) -> Tensor:
    return torch.nn.functional.one_hot(predictions, 5).float()


def test_another_class_of_the_same_superclass_counts_as_right() -> None:
    assert superclass_accuracy(scores(), LABELS, COARSE) == 5 / 7
    assert superclass_accuracy(scores(), LABELS, torch.tensor(COARSE)) == 5 / 7


def test_one_superclass_per_class_is_the_plain_accuracy() -> None:
    assert superclass_accuracy(scores(), LABELS, list(range(5))) == 3 / 7
    assert superclass_accuracy(scores(), LABELS, [0] * 5) == 1


def test_the_confusion_of_classes_adds_up_to_that_of_superclasses() -> None:
    fine = confusion(PREDICTED, LABELS, 5)
    mapped = torch.tensor(COARSE)
    expected = confusion(mapped[PREDICTED], mapped[LABELS], 3)
    assert superclass_confusion(fine, COARSE).tolist() == expected.tolist() == [[3, 1, 0], [1, 2, 0], [0, 0, 0]]


def test_per_superclass_tells_confusions_within_from_those_outside() -> None:
    rows = per_superclass(confusion(PREDICTED, LABELS, 5), COARSE, ["pet", "tree", "vehicle"])
    assert rows == [
        {"superclass": "pet", "images": 4, "right": 0.5, "within": 0.25, "outside": 0.25},
        {"superclass": "tree", "images": 3, "right": 1 / 3, "within": 1 / 3, "outside": 1 / 3},
        {"superclass": "vehicle", "images": 0, "right": None, "within": None, "outside": None},
    ]


def test_the_report_holds_the_same_numbers() -> None:
    result = Evaluation.of(scores(), LABELS, list("abcde"), split="test", coarse_of_fine=COARSE)
    assert result.superclass_accuracy == 5 / 7
    assert result.superclass_interval is not None
    assert result.superclass_interval[0] < 5 / 7 < result.superclass_interval[1]
    assert result.to_dict()["superclass_confusion"] == [[3, 1, 0], [1, 2, 0], [0, 0, 0]]


@pytest.mark.parametrize(("mapping", "message"), [([0, 1], "2 entries for 5 classes"), ([0, 0, -1, 1, 1], "from 0")])
def test_a_map_that_does_not_fit_the_classes_is_refused(mapping: list[int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        superclass_accuracy(scores(), LABELS, mapping)


def test_names_must_fit_the_superclasses() -> None:
    with pytest.raises(GroundupError, match="2 names for 3 superclasses"):
        per_superclass(torch.eye(5, dtype=torch.int64), COARSE, ["pet", "tree"])
