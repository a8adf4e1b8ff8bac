"""A network in channels-last order keeps every plane in it, forward and backward.

Nothing fails where a plane falls out of it: the network only becomes slow (batch norm of `speed_net` took ten times as long in
bfloat16 where the gradient that came to it was in another order).
"""

import pytest
import torch
from torch import Tensor, nn

from groundup.models import build_model, convolution
from groundup.recipe import load_recipe

RECIPES = ["cifar100-speed", "cifar100-resnet18", "cifar100-wrn28-10", "imagenette-resnet50", "003-preact-sgd-basic"]
SMALL = {"cifar100-wrn28-10": ["model.depth=16", "model.width=2"]}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_amx", [False, True])
def test_every_plane_stays_in_channels_last_order(
    recipe: str, precision: torch.dtype, has_amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "multiplies_bfloat16", lambda: has_amx)
    monkeypatch.setattr(convolution, "_MANY_WEIGHTS", 0)
    network = build_model(load_recipe(recipe, SMALL.get(recipe, [])).model, num_classes=10, seed=0)
    network = network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    wrong: list[str] = []
    seen: list[str] = []

    def look(name: str, plane: Tensor) -> None:
        seen.append(name)
        if not plane.is_contiguous(memory_format=torch.channels_last):
            wrong.append(f"{name} {tuple(plane.shape)}")

    def watch(name: str, module: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], out: Tensor) -> None:
            look(f"{name} forward", out)
            if out.requires_grad:
                out.register_hook(lambda grad: look(f"{name} backward", grad))

        module.register_forward_hook(hook)

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            watch(name, module)
    images = torch.randn(2, 3, 40, 40).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        network(images).float().logsumexp(1).sum().backward()
    assert any("backward" in name for name in seen)
    assert not wrong
