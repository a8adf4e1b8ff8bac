"""Accuracies, losses and counts against hand-made cases and torchmetrics."""

import pytest
import torch

from groundup.basis.errors import GroundupError
from groundup.evaluation import confusion, correct, macro_accuracy, nll, per_class, top_k, wilson


@pytest.fixture
def scores() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(400, 12, generator=generator), torch.randint(12, (400,), generator=generator)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_agrees_with_torchmetrics(scores: tuple[torch.Tensor, torch.Tensor], k: int) -> None:
    from torchmetrics.functional.classification import multiclass_accuracy

    logits, labels = scores
    expected = multiclass_accuracy(logits, labels, num_classes=12, average="micro", top_k=k)
    assert top_k(logits, labels, k) == pytest.approx(float(expected), abs=1e-6)


def test_top_5_of_three_classes_counts_every_class() -> None:
    assert top_k(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]), torch.tensor([0, 2]), k=5) == 1.0


def test_top_1_counts_exactly_the_correct_images(scores: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = scores
    hits = correct(logits, labels)
    assert hits.dtype == torch.bool
    assert hits.tolist() == [row.argmax().item() == label.item() for row, label in zip(logits, labels, strict=True)]
    assert top_k(logits, labels, 1) == int(hits.sum()) / 400


def test_nll_of_even_logits_is_the_log_of_the_number_of_classes() -> None:
    assert nll(torch.zeros(5, 8), torch.arange(5)) == pytest.approx(2.0794415416798357)


def test_nll_of_bfloat16_logits_is_computed_in_high_precision(scores: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = scores
    rounded = logits.bfloat16()
    assert nll(rounded, labels) == pytest.approx(nll(rounded.double(), labels), rel=1e-12)


def test_macro_accuracy_weighs_every_class_that_has_images_alike() -> None:
    labels = torch.tensor([0] * 8 + [1, 1, 4])
    predictions = torch.tensor([0] * 8 + [1, 0, 0])
    assert macro_accuracy(predictions, labels) == pytest.approx((1 + 0.5 + 0) / 3)


def test_macro_accuracy_agrees_with_torchmetrics(scores: tuple[torch.Tensor, torch.Tensor]) -> None:
    from torchmetrics.functional.classification import multiclass_accuracy

    logits, labels = scores
    expected = multiclass_accuracy(logits, labels, num_classes=12, average="macro")
    assert macro_accuracy(logits.argmax(1), labels) == pytest.approx(float(expected), abs=1e-6)


def test_confusion_has_true_classes_in_rows() -> None:
    matrix = confusion(torch.tensor([1, 1, 0, 2]), torch.tensor([0, 1, 0, 1]), 3)
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_confusion_of_a_single_class_is_one_cell() -> None:
    assert confusion(torch.zeros(4, dtype=torch.long), torch.zeros(4, dtype=torch.long), 1).tolist() == [[4]]


def test_per_class_gives_recall_and_precision_and_none_where_there_is_nothing_to_divide_by() -> None:
    rows = per_class(torch.tensor([[3, 1, 0], [1, 4, 0], [0, 0, 0]]), ["cat", "dog", "owl"])
    assert [row.pop("recall_interval") for row in rows] == [list(wilson(3, 4)), list(wilson(4, 5)), None]
    assert rows == [
        {"class": "cat", "images": 4, "recall": 0.75, "precision": 0.75},
        {"class": "dog", "images": 5, "recall": 0.8, "precision": 0.8},
        {"class": "owl", "images": 0, "recall": None, "precision": None},
    ]
    assert per_class(torch.eye(2, dtype=torch.int64))[1]["class"] == 1


def test_a_split_without_images_is_an_error_and_not_a_number() -> None:
    with pytest.raises(GroundupError, match="0 images"):
        top_k(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 1)


def test_logits_and_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(4, 1\)"):
        correct(torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.long))
