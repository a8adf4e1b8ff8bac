"""WideResNet: depth and width, dropout in the blocks and in training only."""

from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from groundup.models import WideResNetSettings
from groundup.models.blocks import PreActBlock
from groundup.models.wide_resnet import WideResNet


def wide(**settings: Any) -> WideResNet:
    torch.manual_seed(0)
    return cast(WideResNet, WideResNetSettings(name="wide_resnet", **{"depth": 10, "width": 1, **settings}).build(10))


@pytest.mark.parametrize(("depth", "blocks"), [(10, 1), (16, 2), (28, 4), (40, 6)])
def test_depth_counts_the_layers_with_weights_on_the_way(depth: int, blocks: int) -> None:
    model = wide(depth=depth)
    assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3)] == [blocks] * 3
    on_the_way = [m for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in name]
    assert len(on_the_way) == 1 + 6 * blocks == depth - 3


@pytest.mark.parametrize("depth", [11, 27, 29])
def test_a_depth_without_whole_blocks_is_refused_with_the_nearest(depth: int) -> None:
    below = 10 if depth == 11 else 22 if depth == 27 else 28
    with pytest.raises(ValidationError, match=f"nearest to {depth} are {below} and {below + 6}"):
        wide(depth=depth)


@pytest.mark.parametrize(("key", "value"), [("depth", 4), ("width", 0), ("dropout", 1.0), ("dropout", -0.1)])
def test_values_outside_their_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValidationError, match=key):
        wide(**{key: value})


def test_stages_have_16_32_and_64_times_width_channels_and_halve_the_side_twice() -> None:
    model = wide(width=3).eval()
    x = model.conv1(torch.randn(1, 3, 32, 32))
    shapes = []
    for stage in (model.layer1, model.layer2, model.layer3):
        x = stage(x)
        shapes.append((x.shape[1], x.shape[2]))
    assert shapes == [(48, 32), (96, 16), (192, 8)]


def test_dropout_acts_in_training_and_not_in_evaluation() -> None:
    model, images = wide(dropout=0.5), torch.randn(4, 3, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_without_dropout_training_draws_nothing() -> None:
    model, images = wide(), torch.randn(4, 3, 8, 8)
    before = torch.get_rng_state()
    assert torch.equal(model(images), model(images))
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_stands_between_the_rectified_norm_and_the_second_convolution() -> None:
    block = cast(PreActBlock, wide(dropout=0.5).layer2[0])
    entering: dict[str, Tensor] = {}
    for name in ("conv1", "dropout", "conv2"):
        module = block.get_submodule(name)
        module.register_forward_pre_hook(lambda _m, inputs, name=name: entering.__setitem__(name, inputs[0].detach()))
    block(torch.randn(8, 16, 16, 16))
    zeros = {name: (x == 0).float().mean().item() for name, x in entering.items()}
    assert (entering["dropout"] >= 0).all()
    assert zeros["dropout"] == pytest.approx(0.5, abs=0.05)  # the ReLU alone
    assert zeros["conv2"] == pytest.approx(0.75, abs=0.05)  # the ReLU, and half of what it left
    assert zeros["conv1"] == pytest.approx(0.5, abs=0.05)
