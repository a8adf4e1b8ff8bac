"""Convolutions without the products and outputs that change nothing: the same values and gradients as the plain ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from groundup.models import convolution, forward_flops
from groundup.models.same_size_conv import PooledConv, SameSizeConv, conv_on_small_plane


def padded(x: Tensor, weight: Tensor) -> Tensor:
    """The plain convolution of the same size: even kernels are padded by one more on the left and on top."""
    before, after = weight.shape[2] // 2, (weight.shape[2] - 1) // 2
    return F.conv2d(F.pad(x, (before, after, before, after)), weight)


def both(
    plain: Callable[[Tensor, Tensor], Tensor], ours: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor
) -> None:
    """Output, gradient of the input and gradient of the filters agree, in float64."""
    found = []
    for function in (plain, ours):
        image, filters = x.double().requires_grad_(), weight.detach().double().requires_grad_()
        out = function(image, filters)
        (out * torch.arange(out.numel()).view_as(out).cos()).sum().backward()
        found.append((out.detach(), image.grad, filters.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_a_convolution_starts_as_the_identity_and_keeps_the_size_for_even_kernels_too(kernel: int) -> None:
    images = torch.randn(2, 4, 7, 7)
    out = SameSizeConv(4, 6, kernel)(images)
    assert out.shape == (2, 6, 7, 7)
    torch.testing.assert_close(out[:, :4], images)


@pytest.mark.parametrize(
    ("kernel", "height", "width"), [(3, 1, 1), (3, 2, 2), (3, 3, 3), (3, 1, 3), (3, 3, 2), (5, 5, 4), (5, 2, 2)]
)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_a_small_plane_gives_what_the_convolution_gives(
    kernel: int, height: int, width: int, memory: torch.memory_format
) -> None:
    x, weight = (
        torch.randn(*shape).contiguous(memory_format=memory)
        for shape in ((4, 5, height, width), (6, 5, kernel, kernel))
    )
    both(lambda x, w: F.conv2d(x, w, padding=kernel // 2), conv_on_small_plane, x, weight)


@pytest.mark.parametrize("needed", ["pixels", "filters"])
def test_a_gradient_that_nobody_asks_for_is_not_computed(needed: str) -> None:
    x, weight = torch.randn(4, 5, 2, 2), torch.randn(6, 5, 3, 3)
    asked, other = (x, weight) if needed == "pixels" else (weight, x)
    asked.requires_grad_()
    out, counter = conv_on_small_plane(x, weight), FlopCounterMode(display=False)
    with counter:
        out.sum().backward()
    assert counter.get_total_flops() == 2 * 4 * 5 * 6 * 16
    assert asked.grad is not None
    assert other.grad is None


def test_gradients_in_reduced_precision_are_as_near_as_those_of_the_convolution() -> None:
    x, weight = torch.randn(64, 32, 3, 3), torch.randn(48, 32, 3, 3)
    grad = torch.randn(64, 48, 3, 3)
    found = []
    for dtype, function in (
        (torch.float64, lambda x, w: F.conv2d(x, w, padding=1)),
        (torch.bfloat16, lambda x, w: F.conv2d(x, w, padding=1)),
        (torch.bfloat16, conv_on_small_plane),
    ):
        image, filters = x.bfloat16().to(dtype).requires_grad_(), weight.bfloat16().to(dtype).requires_grad_()
        function(image, filters).backward(grad.bfloat16().to(dtype))
        found.append((image.grad.double(), filters.grad.double()))  # type: ignore[union-attr]
    for exact, theirs, ours in zip(*found, strict=True):
        assert (ours - exact).norm() < 1.5 * (theirs - exact).norm()


@pytest.mark.parametrize(("side", "products"), [(2, 16), (3, 49)])
def test_a_small_plane_costs_no_product_with_the_padding(side: int, products: int) -> None:
    counter = FlopCounterMode(display=False)
    with counter:
        conv_on_small_plane(torch.randn(1, 5, side, side), torch.randn(6, 5, 3, 3))
    assert counter.get_total_flops() == 2 * 5 * 6 * products


@pytest.mark.parametrize("side", [2, 3, 4])
def test_training_and_evaluation_give_the_same(side: int) -> None:
    layer, x = SameSizeConv(4, 6, 3, identity=False), torch.randn(3, 4, side, side)
    torch.testing.assert_close(layer.train()(x), padded(x, layer.weight))
    torch.testing.assert_close(layer.eval()(x), padded(x, layer.weight))


def test_evaluation_stays_one_convolution() -> None:
    """An exporter or a quantiser finds the layer as what it is."""
    layer = SameSizeConv(4, 6, 3).eval()
    graph = torch.export.export(layer, (torch.randn(2, 4, 2, 2),)).graph
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [torch.ops.aten.conv2d.default]


@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_what_is_exported_has_no_negative_padding(kernel: int) -> None:
    """A pad of -1 crops in torch; other runtimes refuse it, or put it into the convolution, where ONNX forbids it."""
    graph = torch.export.export(PooledConv(4, 6, kernel).eval(), (torch.randn(2, 4, 7, 7),)).graph
    pads = [node.args[1] for node in graph.nodes if node.target == torch.ops.aten.pad.default]
    assert len(pads) == 1
    assert all(amount >= 0 for amount in pads[0])


def test_the_compiler_gets_one_convolution_too() -> None:
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch.compile(SameSizeConv(4, 6, 3).train(), backend=backend)(torch.randn(2, 4, 2, 2))
    assert len(seen) == 1
    assert "conv2d" in seen[0]


def test_a_small_plane_keeps_no_more_for_the_backward_pass_than_its_input_and_its_filters() -> None:
    x, weight = torch.randn(4, 5, 2, 2, requires_grad=True), torch.randn(6, 5, 3, 3, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        conv_on_small_plane(x, weight)
    assert [tensor.data_ptr() for tensor in kept] == [x.data_ptr(), weight.data_ptr()]


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 7), (7, 8), (8, 7), (2, 3)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_a_pooled_convolution_gives_what_the_pool_gives(
    kernel: int, height: int, width: int, memory: torch.memory_format
) -> None:
    layer, x = PooledConv(4, 6, kernel, identity=False).double(), torch.randn(3, 4, height, width)
    both(
        lambda x, w: F.max_pool2d(padded(x, w), 2),
        lambda x, w: torch.func.functional_call(layer, {"weight": w}, (x,)),
        x.contiguous(memory_format=memory),
        layer.weight,
    )


def test_what_the_pool_drops_is_not_computed() -> None:
    layer = PooledConv(3, 8, 3)
    assert forward_flops(layer, 7) == forward_flops(layer, 6) == 2 * 36 * 3 * 8 * 9


def test_mixed_precision_reaches_the_products_of_a_small_plane() -> None:
    layer, x = SameSizeConv(4, 6, 3), torch.randn(3, 4, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.train()(x).dtype == layer.eval()(x).dtype == torch.bfloat16
        layer.train()(x).float().square().sum().backward()
        found = layer.weight.grad
        layer.weight.grad = None
        layer.eval()(x).float().square().sum().backward()
    assert found is not None
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, layer.weight.grad, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("side", [4, 7, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_stay_in_the_memory_order_of_the_images(
    kernel: int, side: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(convolution, "_MANY_WEIGHTS", 0)
    layer = PooledConv(8, 16, kernel).to(memory_format=torch.channels_last).train()
    x = torch.randn(3, 8, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        layer(x).float().sum().backward()
    assert x.grad is not None
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
