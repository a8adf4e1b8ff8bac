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
    assert evaluation.images == int(evaluation.confusion.sum()) == sum(row["images"] for row in evaluation.per_class)
    assert int(evaluation.confusion.diagonal().sum()) == 6
    assert [row["recall"] for row in evaluation.per_class] == [0.5, 1.0, 0.75]
    assert evaluation.macro_accuracy == 0.75


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
