"""Binary cross-entropy: against torch's for every kind of target, in parts over micro-batches, and in the recipe."""

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from groundup.basis.errors import UsageError
from groundup.optim import BinaryCrossEntropySettings, CrossEntropySettings, binary_loss_parts, binary_targets
from groundup.recipe import load_recipe

IMAGES, CLASSES = 37, 6
WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.5, 2.0, 1.5])
MODES = [(smoothing, weights) for smoothing in (0.0, 0.1, 0.4) for weights in (None, WEIGHTS)]


def batch(seed=0):
    source = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(IMAGES, CLASSES, generator=source)
    labels = torch.randint(CLASSES, (IMAGES,), generator=source)
    return logits, labels


def mixture(labels, share):
    """Shares of each image's own class and of that of a partner of another class."""
    one, other = (functional.one_hot(y, CLASSES).float() for y in (labels, (labels + 1) % CLASSES))
    return share * one + (1 - share) * other


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradient_equal_torchs_summed_over_the_classes_and_averaged_over_the_images(smoothing):
    logits, labels = batch()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss_sum, denominator = binary_loss_parts(ours, labels, smoothing)
    targets = (1 - smoothing) * functional.one_hot(labels, CLASSES) + smoothing / CLASSES
    expected = CLASSES * functional.binary_cross_entropy_with_logits(theirs, targets)
    torch.testing.assert_close(loss_sum / denominator, expected)
    (loss_sum / denominator).backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_gradient_of_a_logit_is_its_probability_minus_its_target():
    logits, labels = batch()
    logits.requires_grad_()
    binary_loss_parts(logits, labels)[0].backward()
    torch.testing.assert_close(logits.grad, logits.detach().sigmoid() - functional.one_hot(labels, CLASSES))


def test_mixed_labels_equal_torchs_with_their_shares_as_targets():
    logits, labels = batch()
    shares = mixture(labels, torch.linspace(0, 1, IMAGES)[:, None])
    loss_sum, denominator = binary_loss_parts(logits, shares)
    expected = functional.binary_cross_entropy_with_logits(logits, shares, reduction="sum") / IMAGES
    torch.testing.assert_close(loss_sum / denominator, expected)


@pytest.mark.parametrize(
    ("share", "own", "other"), [(1.0, 1, 0), (0.85, 1, 0), (0.5, 1, 1), (0.2, 0, 1), (0.21, 1, 1), (0.0, 0, 1)]
)
def test_a_threshold_of_a_fifth_asks_for_every_class_with_more_than_that(share, own, other):
    labels = torch.tensor([2])
    targets = binary_targets(mixture(labels, share), CLASSES, threshold=0.2)[0]
    assert targets.tolist() == [0, 0, own, other, 0, 0]
    logits = batch()[0][:1]
    settings = BinaryCrossEntropySettings(name="binary_cross_entropy", threshold=0.2)
    expected = functional.binary_cross_entropy_with_logits(logits, targets[None], reduction="sum")
    torch.testing.assert_close(settings.parts(logits, mixture(labels, share))[0], expected)


def test_smoothing_acts_after_the_threshold_which_would_undo_it():
    targets = binary_targets(mixture(torch.tensor([2]), 0.6), CLASSES, 0.1, threshold=0.2)[0]
    spread = 0.1 / CLASSES
    torch.testing.assert_close(targets, torch.tensor([spread, spread, 0.9 + spread, 0.9 + spread, spread, spread]))


@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize(("smoothing", "weights"), MODES)
def test_one_hot_label_equals_its_class_number(smoothing, weights, threshold):
    logits, labels = batch()
    numbers = binary_loss_parts(logits, labels, smoothing, weights, threshold=threshold)
    one_hot = functional.one_hot(labels, CLASSES).float()
    torch.testing.assert_close(binary_loss_parts(logits, one_hot, smoothing, weights, threshold=threshold), numbers)


@pytest.mark.parametrize(("smoothing", "weights"), MODES)
def test_parts_of_micro_batches_add_up_to_the_whole_batch(smoothing, weights):
    logits, labels = batch()
    whole = binary_loss_parts(logits, labels, smoothing, weights)
    parts = [
        binary_loss_parts(x, y, smoothing, weights) for x, y in zip(logits.split(16), labels.split(16), strict=True)
    ]
    assert len(parts) == 3
    total, denominator = (torch.stack(values).sum() for values in zip(*parts, strict=True))
    torch.testing.assert_close((total, denominator), whole)


def test_with_class_weights_an_image_counts_by_its_label():
    logits, labels = batch()
    each = functional.binary_cross_entropy_with_logits(
        logits, functional.one_hot(labels, CLASSES).float(), reduction="none"
    ).sum(1)
    loss_sum, denominator = binary_loss_parts(logits, labels, class_weights=WEIGHTS)
    torch.testing.assert_close(loss_sum, (WEIGHTS[labels] * each).sum())
    torch.testing.assert_close(denominator, WEIGHTS[labels].sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_give_a_float32_loss(dtype):
    logits, labels = batch()
    half = logits.to(dtype)
    loss_sum, denominator = binary_loss_parts(half, labels, 0.1)
    assert loss_sum.dtype == denominator.dtype == torch.float32
    torch.testing.assert_close((loss_sum, denominator), binary_loss_parts(half.float(), labels, 0.1))


@pytest.mark.parametrize("changes", [{"threshold": 0.5}, {"threshold": -0.1}, {"label_smoothing": 1.0}])
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ValidationError, match=next(iter(changes))):
        BinaryCrossEntropySettings(name="binary_cross_entropy", **changes)


def test_a_recipe_chooses_it_by_name_and_a_loss_without_a_name_is_cross_entropy():
    chosen = load_recipe("digits", ["loss={name: binary_cross_entropy, threshold: 0.2}"]).loss
    assert chosen == BinaryCrossEntropySettings(name="binary_cross_entropy", threshold=0.2)
    assert load_recipe("digits", ["loss={label_smoothing: 0.3}"]).loss == CrossEntropySettings(label_smoothing=0.3)
    assert load_recipe("cifar100-resnet18", ["loss.label_smoothing=0.3"]).loss.label_smoothing == 0.3


def test_an_unknown_loss_and_a_setting_of_the_other_one_are_refused_with_what_is_allowed():
    with pytest.raises(UsageError, match=r"loss\.name='focal': unknown name; allowed: binary_cross_entropy, cross_ent"):
        load_recipe("digits", ["loss.name=focal"])
    with pytest.raises(UsageError, match=r"loss\.threshold=0\.2: unknown key; allowed in loss: name, label_smoothing"):
        load_recipe("digits", ["loss.threshold=0.2"])
