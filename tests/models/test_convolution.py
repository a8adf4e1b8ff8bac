"""Convolutions whose filters get their gradient by a product: the same values, gradients and graph as torch's."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from groundup.models import build_model, convolution
from groundup.models.blocks import BlurredConv2d, conv1x1, conv3x3
from groundup.models.convolution import Convolution, conv_on_few_outputs
from groundup.models.same_size_conv import PooledConv, SameSizeConv
from groundup.recipe import load_recipe


@pytest.fixture
def with_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that only large layers on a CPU with AMX take, on any and for all."""
    monkeypatch.setattr(convolution, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(convolution, "_MANY_WEIGHTS", 0)


def gradients(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> list[Tensor]:
    image, filters = x.double().requires_grad_(), weight.double().requires_grad_()
    out = function(image, filters)
    (out * torch.arange(out.numel()).view_as(out).cos()).sum().backward()
    assert image.grad is not None
    assert filters.grad is not None
    return [out.detach(), image.grad, filters.grad]


@pytest.mark.parametrize(
    ("kernel", "height", "width"), [(1, 4, 4), (2, 7, 7), (2, 5, 4), (3, 6, 6), (3, 4, 7), (5, 5, 7)]
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_the_convolution(
    kernel: int, height: int, width: int, stride: int, padding: tuple[int, int], memory: torch.memory_format
) -> None:
    x, weight = (
        torch.randn(*shape).contiguous(memory_format=memory)
        for shape in ((4, 5, height, width), (6, 5, kernel, kernel))
    )
    theirs = gradients(lambda x, w: F.conv2d(x, w, stride=stride, padding=padding), x, weight)
    ours = gradients(lambda x, w: conv_on_few_outputs(x, w, (stride, stride), padding), x, weight)
    for one, other in zip(theirs, ours, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("needed", ["pixels", "filters"])
def test_a_gradient_that_nobody_asks_for_is_not_computed(needed: str) -> None:
    x, weight = torch.randn(4, 5, 3, 3), torch.randn(6, 5, 2, 2)
    asked, other = (x, weight) if needed == "pixels" else (weight, x)
    asked.requires_grad_()
    out, counter = conv_on_few_outputs(x, weight), FlopCounterMode(display=False)
    with counter:
        out.sum().backward()
    assert counter.get_total_flops() == 2 * 4 * 5 * 6 * 4 * 4
    assert asked.grad is not None
    assert other.grad is None


LAYERS: list[Callable[[], Convolution]] = [
    lambda: Convolution(32, 6, 3, padding=1),
    lambda: SameSizeConv(32, 6, 3),
    lambda: SameSizeConv(32, 6, 2),
    lambda: PooledConv(32, 6, 2),
    lambda: conv3x3(32, 6),  # type: ignore[return-value, list-item]
    lambda: conv1x1(32, 6),  # type: ignore[return-value, list-item]
]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("side", "dtype", "by_a_product"), [
    (4, torch.bfloat16, True),
    (8, torch.bfloat16, True),
    (10, torch.bfloat16, False),
    (4, torch.float32, False),
])  # fmt: skip
def test_only_few_outputs_in_fast_bfloat16_leave_the_librarys_gradient(
    layer: Callable[[], Convolution], side: int, dtype: torch.dtype, by_a_product: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "_MANY_WEIGHTS", 0)
    module, x = layer(), torch.randn(3, 32, side, side)

    def is_ours() -> bool:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            graph = module(x).grad_fn
        while graph is not None and "Pool" in str(graph):
            graph = graph.next_functions[0][0]
        return "FewOutputs" in str(graph)

    for has_amx in (True, False):
        monkeypatch.setattr(convolution, "multiplies_bfloat16", lambda has_amx=has_amx: has_amx)
        assert is_ours() is (by_a_product and has_amx)
    monkeypatch.setattr(convolution, "multiplies_bfloat16", lambda: True)
    module.eval()
    assert not is_ours()
    module.train()
    monkeypatch.setattr(convolution, "_MANY_WEIGHTS", module.weight.numel() + 1)
    assert not is_ours()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("side", [4, 5, 8])
def test_mixed_precision_gives_the_gradients_of_float32_but_for_rounding(
    side: int, kernel: int, stride: int, with_amx: None
) -> None:
    generator = torch.Generator().manual_seed(side)
    layer = Convolution(4, 6, kernel, stride=stride, padding=kernel // 2)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator).bfloat16())
    x = torch.randn(3, 4, side, side, generator=generator).bfloat16().float().requires_grad_()
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = layer(x)
        assert ("FewOutputs" in str(out.grad_fn)) is (enabled and out.shape[2] * out.shape[3] <= 64)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
        found.append(torch.autograd.grad((out.float() * weights).sum(), [x, layer.weight]))
    for exact, rounded in zip(*found, strict=True):
        assert rounded.dtype == torch.float32
        assert (rounded - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (3, 1)])
def test_planes_shorter_than_the_stride_give_sound_values_and_gradients_whatever_the_memory_held(
    kernel: int, height: int, width: int
) -> None:
    layer = Convolution(64, 64, kernel, stride=2, padding=kernel // 2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(16, 64, height, width).contiguous(memory_format=torch.channels_last)
    exact = F.conv2d(x, layer.weight, stride=2, padding=kernel // 2)
    (exact_gradient,) = torch.autograd.grad(exact.square().sum(), layer.weight)
    for _ in range(20):
        leave_nan_in_freed_memory()
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x).float()
            rated = layer.eval()(x).float()
        leave_nan_in_freed_memory()
        (gradient,) = torch.autograd.grad(out.square().sum(), layer.train().weight)
        torch.testing.assert_close(out, exact, rtol=0.02, atol=0.02)
        torch.testing.assert_close(rated, exact, rtol=0.02, atol=0.02)
        torch.testing.assert_close(gradient, exact_gradient, rtol=0.05, atol=0.5)


def leave_nan_in_freed_memory() -> None:
    held = [torch.full((2**power,), math.nan) for power in range(4, 21) for _ in range(4)]
    assert held


def test_a_blurred_convolution_gets_it_too_and_is_blurred(with_amx: None) -> None:
    layer = BlurredConv2d(16, 6, 3, stride=2, padding=1)
    x = torch.randn(2, 16, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
        expected = F.conv2d(F.conv2d(x, layer.blur, padding=1, groups=16), layer.weight, stride=2, padding=1)
    assert "FewOutputs" in str(out.grad_fn)
    torch.testing.assert_close(out, expected)


def test_evaluation_stays_one_convolution() -> None:
    graph = torch.export.export(Convolution(4, 6, 3, stride=2, padding=1).eval(), (torch.randn(2, 4, 4, 4),)).graph
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [torch.ops.aten.conv2d.default]


@pytest.mark.parametrize(
    "recipe", ["cifar100-resnet18", "cifar100-wrn28-10", "imagenette-resnet50", "003-preact-sgd-basic"]
)
def test_every_convolution_of_the_residual_networks_but_large_stems_is_one_of_ours(recipe: str) -> None:
    network = build_model(load_recipe(recipe).model, num_classes=10, seed=0)
    others = [
        name for name, m in network.named_modules() if isinstance(m, nn.Conv2d) and not isinstance(m, Convolution)
    ]
    assert others in ([], ["conv1"])
