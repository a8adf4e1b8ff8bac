"""The compact network of the speed records: its stem, its identity start, its sizes."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from groundup.models import SpeedNetSettings, build_model, count_parameters, forward_flops
from groundup.models import speed_net as module
from groundup.models.same_size_conv import SameSizeConv
from groundup.models.speed_net import SpeedNet, whitening_filters

SMALL = SpeedNetSettings(name="speed_net", widths=(8, 12, 16), middles=(8, 8, 12))


def correlated_images(count: int = 40, size: int = 12) -> torch.Tensor:
    noise = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(F.pad(noise, (1, 1, 1, 1), mode="reflect"), 3, stride=1) * 3 + noise[:, :1]


def test_the_default_network_costs_what_its_card_says() -> None:
    network = build_model(SpeedNetSettings(name="speed_net"), num_classes=100, seed=0)
    assert count_parameters(network) == 8_608_024
    for size, gflop in ((32, 0.319), (24, 0.152), (20, 0.127)):
        assert forward_flops(network, size) / 1e9 == pytest.approx(gflop, abs=0.001)


def test_the_stem_makes_the_patches_of_the_data_uncorrelated_with_unit_variance() -> None:
    images = correlated_images()
    responses = F.conv2d(images, whitening_filters(images, 2)[:12]).permute(1, 0, 2, 3).flatten(1)
    covariance = torch.cov(responses)
    assert torch.allclose(covariance, torch.eye(12), atol=0.02)


def test_the_second_half_of_the_stem_is_the_negative_of_the_first() -> None:
    filters = whitening_filters(correlated_images(), 2)
    assert torch.equal(filters[12:], -filters[:12])


def test_the_stem_does_not_depend_on_how_many_patches_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = correlated_images()
    whole = whitening_filters(images, 2)
    monkeypatch.setattr(module, "_PATCHES_AT_ONCE", 3 * 12 * 12)
    torch.testing.assert_close(whitening_filters(images, 2), whole, rtol=1e-4, atol=1e-5)


def test_the_stem_is_frozen_and_its_bias_is_not() -> None:
    network = build_model(SMALL, num_classes=5, seed=0)
    assert isinstance(network, SpeedNet)
    assert not network.whiten.weight.requires_grad
    assert network.whiten.bias is not None
    assert network.whiten.bias.requires_grad


def test_a_plain_stem_is_random_and_trained() -> None:
    network = build_model(SMALL.model_copy(update={"stem": "plain"}), num_classes=5, seed=0)
    assert isinstance(network, SpeedNet)
    before = network.whiten.weight.detach().clone()
    network.initialize_from(correlated_images())
    assert torch.equal(network.whiten.weight, before)
    assert not torch.equal(before[12:], -before[:12])
    network(correlated_images()).square().sum().backward()
    assert network.whiten.weight.grad is not None


def test_the_default_start_is_no_identity() -> None:
    network = build_model(SMALL.model_copy(update={"init": "default"}), num_classes=5, seed=0)
    assert isinstance(network, SpeedNet)
    for layer in network.modules():
        if isinstance(layer, SameSizeConv):
            assert layer.weight.std() > 0
            assert not (layer.weight == 0).any()


def test_the_smallest_image_is_the_smallest_that_works() -> None:
    network = build_model(SMALL, num_classes=5, seed=0).eval()
    assert network(torch.randn(2, 3, SMALL.smallest_image, SMALL.smallest_image)).shape == (2, 5)
    with pytest.raises(RuntimeError):
        network(torch.randn(2, 3, SMALL.smallest_image - 1, SMALL.smallest_image - 1))


def test_other_than_three_pairs_of_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 3 groups"):
        SpeedNetSettings(name="speed_net", pair_kernels=((1, 1), (3, 1)))


def test_a_training_pass_makes_fewer_products_than_the_card_counts() -> None:
    network = build_model(SpeedNetSettings(name="speed_net"), num_classes=100, seed=0).train()
    for size, gflop in ((32, 0.269), (24, 0.120), (20, 0.096)):
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            network(torch.randn(2, 3, size, size))
        assert counter.get_total_flops() / 2e9 == pytest.approx(gflop, abs=0.001)
