"""Counting parameters and FLOP: published figures, hand-counted layers, and no trace left in the model."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.models import (
    PreActResNetSettings,
    ResNetSettings,
    WideResNetSettings,
    build_model,
    count_parameters,
    forward_flops,
)
from groundup.models.build import NetworkSettings

WRN_28_10 = WideResNetSettings(name="wide_resnet", depth=28, width=10)
RESNET18 = ResNetSettings(name="resnet18")
RESNET34 = ResNetSettings(name="resnet34")
RESNET50 = ResNetSettings(name="resnet50")
RESNET50_IMAGENET = ResNetSettings(name="resnet50", stem="imagenet")
RESNET50_D = ResNetSettings(name="resnet50", stem="deep", shortcut="pool")
RESNET50_BLURRED = ResNetSettings(name="resnet50", stem="imagenet", blur_pool=True)
PREACT = PreActResNetSettings(name="preact_resnet18")


def without_weights(settings: NetworkSettings, num_classes: int) -> nn.Module:
    """The network on the meta device: shapes only, so that a large one costs nothing."""
    with torch.device("meta"):
        return settings.build(num_classes)


@pytest.mark.parametrize(
    ("settings", "classes", "parameters"),
    [
        (WRN_28_10, 100, 36_536_884),
        (WideResNetSettings(name="wide_resnet", depth=28, width=10), 10, 36_479_194),
        (RESNET50_IMAGENET, 1000, 25_557_032),
        (RESNET50_BLURRED, 1000, 25_557_032),
        (RESNET50_D, 1000, 25_576_264),
        (ResNetSettings(name="resnet18", stem="deep", shortcut="pool"), 1000, 11_708_744),
        (ResNetSettings(name="resnet34", stem="deep", shortcut="pool"), 1000, 21_816_904),
        (ResNetSettings(name="resnet18", stem="imagenet"), 1000, 11_689_512),
        (ResNetSettings(name="resnet34", stem="imagenet"), 1000, 21_797_672),
        (RESNET18, 100, 11_220_132),
        (RESNET34, 100, 21_328_292),
        (RESNET50, 100, 23_705_252),
        (PREACT, 100, 11_218_340),
        (PreActResNetSettings(name="preact_resnet18", final_norm=False), 100, 11_218_340 - 2 * 512),
    ],
)
def test_networks_have_the_published_number_of_parameters(
    settings: NetworkSettings, classes: int, parameters: int
) -> None:
    assert count_parameters(without_weights(settings, classes)) == parameters


@pytest.mark.parametrize(
    ("settings", "classes", "side", "gflop"),
    [
        (WRN_28_10, 100, 32, 10.49),
        (RESNET18, 100, 32, 1.11),
        (RESNET50_IMAGENET, 1000, 224, 8.18),
        (RESNET50, 100, 32, 2.60),
        (RESNET50_D, 1000, 224, 8.66),
        (RESNET50_BLURRED, 1000, 224, 8.22),
    ],
)
def test_a_forward_pass_costs_the_published_number_of_flop(
    settings: NetworkSettings, classes: int, side: int, gflop: float
) -> None:
    assert forward_flops(without_weights(settings, classes), side) / 1e9 == pytest.approx(gflop, abs=0.01)


def test_the_figure_on_a_device_is_the_one_without_weights() -> None:
    settings = ResNetSettings(name="resnet18", width=8)
    real = build_model(settings, num_classes=10, seed=1)
    assert forward_flops(real, 16) == forward_flops(without_weights(settings, 10), 16) > 0


class _ByHand(nn.Module):
    """A grouped convolution, a functional one with its own filters, a linear layer; and a norm that is not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(3, 6, 3, padding=1, groups=3)
        self.norm = nn.BatchNorm2d(6)
        self.filters = nn.Parameter(torch.randn(5, 6, 2, 2))
        self.fc = nn.Linear(5, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(self.norm(self.grouped(x)), self.filters, stride=2)
        return self.fc(x.mean((2, 3)))


def test_grouped_and_functional_convolutions_are_counted() -> None:
    grouped = 8 * 8 * 6 * (1 * 3 * 3)
    functional = 4 * 4 * 5 * (6 * 2 * 2)
    assert forward_flops(_ByHand(), 8) == 2 * (grouped + functional + 5 * 7)


def test_frozen_parameters_and_buffers_are_not_counted_as_parameters() -> None:
    model = _ByHand()
    everything = 6 * 9 + 6 + 6 + 6 + 5 * 6 * 4 + 7 * 5 + 7
    assert count_parameters(model) == everything
    model.grouped.requires_grad_(False)
    assert count_parameters(model) == everything - 6 * 9 - 6


def test_counting_leaves_modes_statistics_and_gradients_as_they_were() -> None:
    model = _ByHand().train()
    model.fc.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    forward_flops(model, 8)
    assert model.training
    assert model.norm.training
    assert not model.fc.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_come_back_when_the_image_is_too_small() -> None:
    model = _ByHand().train()
    with pytest.raises(RuntimeError):
        forward_flops(model, 0)
    assert all(module.training for module in model.modules())
