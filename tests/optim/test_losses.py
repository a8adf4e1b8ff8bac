"""Cross-entropy: against torch's in every mode, and in parts over micro-batches."""

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from groundup.basis.errors import UsageError
from groundup.optim import LOSSES, CrossEntropySettings, balanced_weights, cross_entropy, loss_parts

IMAGES, CLASSES = 37, 6


def batch(seed=0):
    source = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(IMAGES, CLASSES, generator=source)
    labels = torch.randint(CLASSES, (IMAGES,), generator=source)
    return logits, labels


WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.5, 2.0, 1.5])
MODES = [(smoothing, weights) for smoothing in (0.0, 0.1, 0.4) for weights in (None, WEIGHTS)]


@pytest.mark.parametrize(("smoothing", "weights"), MODES)
def test_loss_and_gradient_equal_torchs(smoothing, weights):
    logits, labels = batch()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = cross_entropy(ours, labels, smoothing, weights)
    expected = functional.cross_entropy(theirs, labels, weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(("smoothing", "weights"), MODES)
def test_parts_of_micro_batches_add_up_to_the_whole_batch(smoothing, weights):
    logits, labels = batch()
    whole = cross_entropy(logits, labels, smoothing, weights)
    parts = [loss_parts(x, y, smoothing, weights) for x, y in zip(logits.split(16), labels.split(16), strict=True)]
    assert len(parts) == 3
    total, denominator = (torch.stack(values).sum() for values in zip(*parts, strict=True))
    torch.testing.assert_close(total / denominator, whole)
    assert denominator == pytest.approx(IMAGES if weights is None else weights[labels].sum().item())


@pytest.mark.parametrize(("smoothing", "weights"), MODES)
def test_one_hot_label_equals_its_class_number(smoothing, weights):
    logits, labels = batch()
    one_hot = functional.one_hot(labels, CLASSES).float()
    torch.testing.assert_close(
        cross_entropy(logits, one_hot, smoothing, weights), cross_entropy(logits, labels, smoothing, weights)
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_labels_equal_torchs_and_the_mixture_of_the_two_losses(smoothing):
    logits, labels = batch()
    partners = labels.flip(0)
    share = torch.linspace(0, 1, IMAGES)[:, None]
    one, other = (functional.one_hot(y, CLASSES) for y in (labels, partners))
    mixed = cross_entropy(logits, share * one + (1 - share) * other, smoothing)
    torch.testing.assert_close(
        mixed, functional.cross_entropy(logits, share * one + (1 - share) * other, label_smoothing=smoothing)
    )
    per_image = [
        functional.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing) for y in (labels, partners)
    ]
    torch.testing.assert_close(mixed, (share[:, 0] * per_image[0] + (1 - share[:, 0]) * per_image[1]).mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_give_a_float32_loss(dtype):
    logits, labels = batch()
    half = logits.to(dtype)
    loss_sum, denominator = loss_parts(half, labels, 0.1)
    assert loss_sum.dtype == denominator.dtype == torch.float32
    torch.testing.assert_close(loss_sum / denominator, cross_entropy(half.float(), labels, 0.1))


def test_balanced_weights_make_every_class_count_the_same():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    weights = balanced_weights(labels, 3)
    torch.testing.assert_close(weights, torch.tensor([10 / 18, 10 / 9, 10 / 3]))
    assert weights.dtype == torch.float32
    totals = [weights[labels][labels == label].sum().item() for label in range(3)]
    assert totals == pytest.approx([10 / 3] * 3)


def test_balanced_weights_refuse_a_class_without_images_by_number():
    with pytest.raises(UsageError, match=r"loss\.class_weights='balanced': no training images of class 1, 3") as error:
        balanced_weights(torch.tensor([0, 2, 0]), 4)
    assert "loss.class_weights=none" in (error.value.hint or "")


def test_settings_use_their_smoothing_and_weights():
    logits, labels = batch()
    settings = CrossEntropySettings(label_smoothing=0.2, class_weights="balanced")
    weights = settings.weights(labels, CLASSES)
    loss_sum, denominator = loss_parts(logits, labels, settings.label_smoothing, weights)
    expected = functional.cross_entropy(logits, labels, weight=weights, label_smoothing=0.2)
    torch.testing.assert_close(loss_sum / denominator, expected)
    assert CrossEntropySettings().weights(labels, CLASSES) is None


@pytest.mark.parametrize("changes", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"class_weights": "balance"}])
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ValidationError, match=next(iter(changes))):
        CrossEntropySettings(**changes)


@pytest.mark.parametrize("name", LOSSES)
def test_every_field_has_a_description_and_name_comes_first(name):
    fields = LOSSES[name].model_fields
    assert next(iter(fields)) == "name"
    assert all(field.description for field in fields.values())
