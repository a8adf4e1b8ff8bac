"""AugMix: chains of the right lengths and strengths, mixed with weights of the right distribution."""

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import beta as beta_distribution
from scipy.stats import chisquare, kstest
from torch import Tensor

from groundup.augment import Batch, Parameters
from groundup.augment.augmix import AugMix, dirichlet, mix, operations
from groundup.augment.space import NAMES, PLACES, perform
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]


def draw(make_batch: MakeBatch, count: int, **changes: object) -> Parameters:
    settings = AugMix.model_validate({"name": "augmix", **changes})
    return settings.draw(make_batch(count, size=32), generator(0))


@pytest.mark.parametrize(("alpha", "size"), [(1.0, 2), (1.0, 3), (0.3, 4), (5.0, 3)])
def test_weights_are_dirichlet(alpha: float, size: int) -> None:
    weights = dirichlet(20_000, size, alpha, generator("weights"))
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(1), torch.ones(20_000))
    for part in weights.T:  # each share of a Dirichlet is Beta(alpha, the others' alphas)
        assert kstest(part.double().numpy(), beta_distribution(alpha, alpha * (size - 1)).cdf).pvalue > 1e-4
    a = size * alpha
    expected = -1 / (size**2 * (a + 1))  # the covariance of two shares
    assert weights.T.cov()[0, 1] == pytest.approx(expected, rel=0.1)


def test_dirichlet_weights_follow_from_the_generator_alone() -> None:
    torch.manual_seed(torch.seed())
    before = torch.get_rng_state()
    assert torch.equal(dirichlet(10, 3, 1.0, generator(1)), dirichlet(10, 3, 1.0, generator(1)))
    assert not torch.equal(dirichlet(10, 3, 1.0, generator(1)), dirichlet(10, 3, 1.0, generator(2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_images_own_weight_is_uniform_at_alpha_1(make_batch: MakeBatch) -> None:
    weights = draw(make_batch, 20_000)["weights"]
    assert weights.shape == (20_000, 4)
    torch.testing.assert_close(weights.sum(1), torch.ones(20_000))
    assert kstest(weights[:, 0].double().numpy(), "uniform").pvalue > 1e-4
    among_chains = weights[:, 1] / weights[:, 1:].sum(1)
    assert kstest(among_chains.double().numpy(), beta_distribution(1, 2).cdf).pvalue > 1e-4


def test_a_chain_has_1_to_3_operations_equally_often_each_chain_for_itself(make_batch: MakeBatch) -> None:
    operation = draw(make_batch, 30_000)["operation"]
    assert operation.shape == (30_000, 3, 3)
    lengths = (operation != PLACES["Identity"]).sum(2)
    counts = torch.bincount(((lengths[:, 0] - 1) * 9 + (lengths[:, 1] - 1) * 3 + lengths[:, 2] - 1), minlength=27)
    assert len(counts) == 27
    assert chisquare(counts.numpy()).pvalue > 1e-4
    assert ((operation[:, :, 1:] == 0) | (operation[:, :, :-1] != 0)).all(), "an ended chain does not go on"


def test_a_given_depth_is_kept(make_batch: MakeBatch) -> None:
    operation = draw(make_batch, 1000, depth=5, width=2)["operation"]
    assert operation.shape == (1000, 2, 5)
    assert (operation != 0).all()


@pytest.mark.parametrize("all_ops", [True, False])
def test_operations_are_equally_likely(all_ops: bool, make_batch: MakeBatch) -> None:
    operation = draw(make_batch, 10_000, all_ops=all_ops, depth=1)["operation"].flatten()
    names = [scale.name for scale in operations(32, all_ops)]
    assert len(names) == (13 if all_ops else 9)
    counts = torch.bincount(operation, minlength=len(NAMES))[[PLACES[name] for name in names]]
    assert counts.sum() == len(operation)
    assert chisquare(counts.numpy()).pvalue > 1e-4
    tested_by_corruptions = {"Brightness", "Color", "Contrast", "Sharpness"}
    assert tested_by_corruptions & set(names) == (tested_by_corruptions if all_ops else set())


@pytest.mark.parametrize(("severity", "fewest_bits"), [(1, 4), (3, 3), (10, 0)])
def test_the_weakest_magnitudes_are_drawn_up_to_the_severity(
    severity: int, fewest_bits: int, make_batch: MakeBatch
) -> None:
    drawn = draw(make_batch, 20_000, severity=severity)
    angles = drawn["magnitude"][drawn["operation"] == PLACES["Rotate"]]
    bins = (angles.abs() / 30 * 9).round().long()
    counts = torch.bincount(bins)
    assert len(counts) == severity
    assert counts.min() > 0.8 * len(bins) / severity
    bits = drawn["magnitude"][drawn["operation"] == PLACES["Posterize"]]
    assert (bits.max(), bits.min()) == (4, fewest_bits)


def test_the_result_is_the_weighted_sum_of_image_and_chains(digit_images: Tensor, make_batch: MakeBatch) -> None:
    settings = AugMix(name="augmix", width=2, severity=8)
    drawn = settings.draw(make_batch(), generator(0))
    expected = drawn["weights"][:, 0, None, None, None].double() * digit_images
    for chain in range(2):
        images = digit_images
        for turn in range(3):
            operation, magnitude = (drawn[key][:, chain, turn] for key in ("operation", "magnitude"))
            images = perform(images, operation, magnitude, among=NAMES, interpolation="bilinear")
        expected += drawn["weights"][:, 1 + chain, None, None, None].double() * images
    assert (settings.apply(digit_images, drawn).double() - expected).abs().max() <= 0.501


def test_mixing_an_image_with_itself_keeps_it() -> None:
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(50, 3, 16, 16)
    weights = dirichlet(50, 4, 1.0, generator(0))
    assert torch.equal(mix([image] * 4, weights), image)


def test_all_weight_on_one_part_gives_that_part(digit_images: Tensor) -> None:
    parts = [digit_images, digit_images.flip(0), digit_images.flip(3)]
    for place, part in enumerate(parts):
        weights = torch.zeros(64, 3)
        weights[:, place] = 1
        assert torch.equal(mix(parts, weights), part)


@pytest.mark.parametrize(
    "wrong", [{"depth": 0}, {"depth": -2}, {"severity": 11}, {"severity": 0}, {"alpha": 0}, {"width": 0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        AugMix.model_validate({"name": "augmix", **wrong})
