"""The fixed blur before strided convolutions: its filter, where it stands, what it is for."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.models import ResNetSettings, build_model, forward_flops
from groundup.models.blocks import BlurredConv2d, conv1x1, conv3x3
from groundup.models.convolution import Convolution


def passes_on(channels: int = 16, *, blur: bool) -> nn.Conv2d:
    """A 1x1 convolution with stride 2 that only drops pixels."""
    convolution = conv1x1(channels, channels, 2, blur=blur)
    nn.init.dirac_(convolution.weight)
    return convolution


def blurred_by_hand(x: Tensor) -> Tensor:
    """Weights 1, 2, 1 over 4 along rows, then along columns, zeros beyond the border."""
    x = F.pad(x, (1, 1, 1, 1))
    x = (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
    return (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4


@pytest.mark.parametrize("side", [8, 9])
def test_the_input_is_blurred_and_then_convolved_with_the_stride(side: int) -> None:
    x = torch.randn(2, 16, side, side)
    torch.testing.assert_close(passes_on(blur=True)(x), blurred_by_hand(x)[..., ::2, ::2])
    convolution = conv3x3(16, 24, 2, blur=True)
    expected = F.conv2d(blurred_by_hand(x), convolution.weight, stride=2, padding=1)
    torch.testing.assert_close(convolution(x), expected)


def test_a_point_becomes_the_filter() -> None:
    point = torch.zeros(1, 16, 5, 5)
    point[0, 3, 2, 2] = 16
    blurred = F.conv2d(point, BlurredConv2d(16, 16, 1, stride=2, padding=0).blur, padding=1, groups=16)
    assert blurred[0, 3, 1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    assert blurred.sum() == 16, "the other channels stay dark, and brightness is kept"


def test_blur_makes_a_strided_convolution_robust_to_a_shift_of_one_pixel() -> None:
    x = torch.randn(8, 16, 33, 33, generator=torch.Generator().manual_seed(0))

    def change(convolution: nn.Conv2d) -> float:
        here, shifted = convolution(x[..., :-1]), convolution(x[..., 1:])
        inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
        return ((here - shifted)[inside].norm() / here[inside].norm()).item()

    # White noise: uncorrelated neighbours differ by sqrt(2); blurred ones correlate by 2/3, so sqrt(2 - 4/3).
    assert change(passes_on(blur=False)) == pytest.approx(2**0.5, rel=0.03)
    assert change(passes_on(blur=True)) == pytest.approx((2 / 3) ** 0.5, rel=0.03)


def test_a_checkerboard_vanishes_instead_of_turning_into_a_plane() -> None:
    board = ((torch.arange(12)[:, None] + torch.arange(12)) % 2 * 2.0 - 1).expand(1, 16, 12, 12)
    assert passes_on(blur=False)(board).abs().mean() == 1
    assert not passes_on(blur=True)(board)[..., 1:-1, 1:-1].any()


def test_only_strided_convolutions_of_16_channels_or_more_are_blurred() -> None:
    kinds = [conv3x3(16, 8, 1, blur=True), conv3x3(15, 8, 2, blur=True), conv3x3(16, 8, 2, blur=False)]
    assert [type(convolution) for convolution in kinds] == [Convolution] * 3


@pytest.mark.parametrize(
    ("name", "stages", "convolution"), [("resnet18", (3, 4), "conv1"), ("resnet50", (2, 3, 4), "conv2")]
)
def test_a_narrow_network_blurs_from_the_first_stage_that_takes_16_channels(
    name: Any, stages: tuple[int, ...], convolution: str
) -> None:
    settings = ResNetSettings(name=name, width=8, stem="deep", blur_pool=True)
    modules = build_model(settings, num_classes=5, seed=1).named_modules()
    expected = [f"layer{stage}.0.{part}" for stage in stages for part in (convolution, "downsample.0")]
    assert [key for key, module in modules if isinstance(module, BlurredConv2d)] == expected


def test_blur_changes_neither_names_nor_initial_weights_and_is_not_trained() -> None:
    plain, blurred = (
        build_model(ResNetSettings(name="resnet18", width=16, blur_pool=blur), num_classes=5, seed=1)
        for blur in (False, True)
    )
    assert list(blurred.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(value, blurred.state_dict()[key]) for key, value in plain.state_dict().items())
    assert [key for key, _ in blurred.named_parameters()] == [key for key, _ in plain.named_parameters()]
    x = torch.randn(2, 3, 16, 16)
    assert not torch.allclose(plain.eval()(x), blurred.eval()(x))


def test_the_work_of_the_blur_is_counted() -> None:
    plain, blurred = (
        build_model(ResNetSettings(name="resnet18", width=16, blur_pool=blur), num_classes=5, seed=1)
        for blur in (False, True)
    )
    # Two strided convolutions at the head of each of the last three stages, 9 multiply-adds a value.
    values = 16 * 32**2 + 32 * 16**2 + 64 * 8**2
    assert forward_flops(blurred, 32) - forward_flops(plain, 32) == 2 * 2 * 9 * values
