"""The report of one evaluation: numbers that agree with each other, JSON that can be written."""

import json

import pytest
import torch

from groundup.basis.errors import GroundupError
from groundup.evaluation import Evaluation, wilson


@pytest.fixture
def evaluation() -> Evaluation:
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 1, 2, 2, 2, 0]), 3).float() * 4
    return Evaluation.of(logits, labels, ["cat", "dog", "owl"], split="test", tta="flip")


def test_the_numbers_agree_with_each_other(evaluation: Evaluation) -> None:
    assert evaluation.top1 == 6 / 8
    assert evaluation.top1_interval == wilson(6, 8)
    assert evaluation.top5 == 1.0
    assert evaluation.top5_interval == wilson(8, 8)
    assert evaluation.images == int(evaluation.confusion.sum()) == sum(row["images"] for row in evaluation.per_class)
    assert int(evaluation.confusion.diagonal().sum()) == 6
    assert [row["recall"] for row in evaluation.per_class] == [0.5, 1.0, 0.75]
    assert [tuple(row["recall_interval"]) for row in evaluation.per_class] == [wilson(1, 2), wilson(2, 2), wilson(3, 4)]
    assert evaluation.macro_accuracy == 0.75


def test_the_macro_accuracy_of_unlike_classes_has_an_interval_as_wide_as_its_standard_error_says() -> None:
    # 400 images of one class, 36 of another: the few decide how sure the mean of both is.
    right = torch.arange(436) % 4 != 0  # three quarters of each
    labels = (torch.arange(436) >= 400).long()
    logits = torch.nn.functional.one_hot(torch.where(right, labels, 1 - labels), 2).float()
    found = Evaluation.of(logits, labels, ["many", "few"], split="test")
    assert found.macro_accuracy == 0.75
    assert found.macro_interval is not None
    low, high = found.macro_interval
    error = (0.75 * 0.25 * (1 / 400 + 1 / 36)) ** 0.5 / 2
    assert (low, high) == pytest.approx((0.75 - 1.96 * error, 0.75 + 1.96 * error), abs=0.012)
    assert high - low > 1.5 * (found.top1_interval[1] - found.top1_interval[0])
    alone = Evaluation.of(logits[:1], labels[:1], ["many", "few"], split="test")
    assert alone.to_dict()["macro_interval"] is None


def test_the_dictionary_survives_strict_json(evaluation: Evaluation) -> None:
    content = evaluation.to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["confusion"] == [[1, 1, 0], [0, 2, 0], [1, 0, 3]]
    assert content["per_class"][2]["class"] == "owl"


def test_without_superclasses_nothing_is_said_of_them(evaluation: Evaluation) -> None:
    content = evaluation.to_dict()
    assert {key: content[key] for key in content if "superclass" in key} == {
        "superclass_accuracy": None,
        "superclass_interval": None,
        "per_superclass": None,
        "superclass_confusion": None,
    }


def test_the_printed_line_has_the_split_the_interval_and_the_augmentation(evaluation: Evaluation) -> None:
    assert str(evaluation) == (
        "test top-1 75.00% (95% interval 40.93% to 92.85%), top-5 100.00%, 8 images with flip test-time augmentation"
    )


def test_class_names_must_fit_the_outputs() -> None:
    with pytest.raises(GroundupError, match="2 class names for a model with 3 outputs"):
        Evaluation.of(torch.zeros(1, 3), torch.tensor([0]), ["cat", "dog"], split="test")
