"""ResNet: torchvision's names, the two stems, the start of training."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from groundup.models import ResNetSettings
from groundup.models.convolution import Convolution
from groundup.models.resnet import ResNet

PUBLISHED = Path(__file__).with_name("torchvision_resnet_keys.txt")


def published_keys(name: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape of torchvision's network `name`, in its order."""
    rows = (line.split() for line in PUBLISHED.read_text().splitlines() if not line.startswith("#"))
    return {
        key: () if shape == "scalar" else tuple(int(side) for side in shape.split("x"))
        for model, key, shape in rows
        if model == name
    }


def resnet(name: str = "resnet18", **settings: Any) -> ResNet:
    return cast(ResNet, ResNetSettings(name=name, **{"width": 8, **settings}).build(10))


def output_of(model: nn.Module, module: nn.Module, images: Tensor) -> Tensor:
    """What `module` gives when `model` sees `images`."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    model(images)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(("name", "keys"), [("resnet18", 122), ("resnet34", 218), ("resnet50", 320)])
def test_the_state_dict_has_torchvisions_keys_and_shapes_in_its_order(name: str, keys: int) -> None:
    expected = published_keys(name)
    assert len(expected) == keys
    with torch.device("meta"):
        model = ResNetSettings(name=name, stem="imagenet").build(1000)
    assert list({key: tuple(value.shape) for key, value in model.state_dict().items()}.items()) == list(
        expected.items()
    )


def test_the_stems_differ_in_the_first_convolution_only() -> None:
    small, imagenet = (resnet(stem=stem).state_dict() for stem in ("small", "imagenet"))
    assert small.keys() == imagenet.keys()
    assert [key for key in small if small[key].shape != imagenet[key].shape] == ["conv1.weight"]


@pytest.mark.parametrize(
    ("stem", "sides"),
    [("small", (32, 32, 16, 8, 4)), ("imagenet", (16, 8, 4, 2, 1)), ("deep", (16, 8, 4, 2, 1))],
    ids=["small", "imagenet", "deep"],
)
def test_each_stem_gives_its_feature_map_sides(stem: str, sides: tuple[int, ...]) -> None:
    model = resnet(stem=stem).eval()
    images = torch.randn(1, 3, 32, 32)
    stages = [model.conv1, model.layer1, model.layer2, model.layer3, model.layer4]
    assert tuple(output_of(model, stage, images).shape[-1] for stage in stages) == sides


@pytest.mark.parametrize(("name", "expansion"), [("resnet18", 1), ("resnet34", 1), ("resnet50", 4)])
def test_width_is_the_number_of_channels_of_the_first_stage(name: str, expansion: int) -> None:
    model = resnet(name, width=8).eval()
    stages = [model.conv1, model.layer1, model.layer2, model.layer3, model.layer4]
    channels = [output_of(model, stage, torch.randn(1, 3, 8, 8)).shape[1] for stage in stages]
    assert channels == [8, *(8 * expansion * factor for factor in (1, 2, 4, 8))]


def test_the_deep_stem_is_three_3x3_convolutions_with_norm_and_relu_between_them() -> None:
    model = resnet(stem="deep", width=16)
    layers = list(cast(nn.Sequential, model.conv1))
    assert [type(layer) for layer in layers] == [*[Convolution, nn.BatchNorm2d, nn.ReLU] * 2, Convolution]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.stride) for c in convolutions] == [
        (3, 8, (3, 3), (2, 2)),
        (8, 8, (3, 3), (1, 1)),
        (8, 16, (3, 3), (1, 1)),
    ]
    assert isinstance(model.maxpool, nn.MaxPool2d)


def test_the_pool_shortcut_averages_2x2_pixels_and_the_fewer_at_an_odd_border() -> None:
    shortcut = cast(Any, resnet(shortcut="pool").layer2)[0].downsample
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert shortcut[0](x).tolist() == [[[[2, 3.5], [6.5, 8]]]]
    assert shortcut[1].stride == (1, 1)


def test_the_pool_shortcut_leaves_names_at_a_stride_of_1_as_at_2_and_no_strided_1x1() -> None:
    model = resnet("resnet50", shortcut="pool")
    keys = {key.split(".", 2)[2] for key in model.state_dict() if "downsample" in key and key.endswith("weight")}
    assert keys == {"downsample.1.weight", "downsample.2.weight"}
    strided = [
        m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.stride != (1, 1)
    ]
    assert strided == []
    x = torch.randn(1, 8, 5, 5)
    first = cast(Any, model.layer1)[0].downsample
    assert torch.equal(first[0](x), x)


def test_the_bottleneck_strides_in_its_3x3_convolution() -> None:
    block = cast(Any, resnet("resnet50").layer2)[0]
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == ((1, 1), (2, 2), (1, 1))


@pytest.mark.parametrize(("name", "last_norm"), [("resnet18", "bn2"), ("resnet50", "bn3")])
def test_zero_init_residual_makes_every_block_start_as_its_shortcut(name: str, last_norm: str) -> None:
    model = resnet(name, zero_init_residual=True)
    silent = {key for key, parameter in model.named_parameters() if key.endswith("weight") and not parameter.any()}
    assert silent == {key for key in model.state_dict() if key.startswith("layer") and f".{last_norm}.weight" in key}
    x = torch.randn(2, 8 if name == "resnet18" else 32, 4, 4).relu()
    block = cast(Any, model.layer1)[1]
    torch.testing.assert_close(block(x), x)
    assert not torch.allclose(cast(Any, resnet(name).layer1)[1](x), x)


def test_convolutions_start_with_he_fan_out_and_norms_as_the_identity() -> None:
    model = resnet("resnet18", width=64)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / (module.out_channels * module.kernel_size[0] * module.kernel_size[1])) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
