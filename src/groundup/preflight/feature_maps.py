"""The feature maps that a network makes of one image: names, sizes, and what comes out.

They come from a pass over the meta device: shapes without numbers, so that it costs no arithmetic and nothing in the network
changes. A network that cannot go there (a part of it is not at home on the meta device) sees one real image of zeros, in
evaluation mode.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from groundup.evaluation import evaluation_mode

FeatureSize = tuple[str, int, int, int]
"""Name of the module, channels, height and width in px of what it gives."""


@dataclass(frozen=True)
class FeatureMap:
    """A feature map: what `module`, called `name`, gave for an input of `inputs` (height, width) in px."""

    name: str
    module: nn.Module
    inputs: tuple[int, int]
    size: tuple[int, int, int]  # channels, height, width

    @property
    def side(self) -> int:
        """The shorter side in px."""
        return min(self.size[1:])


@dataclass(frozen=True)
class Walk:
    """One image through a network: its feature maps in order of computation, and the shape of what comes out.

    spreadless: the first batch norm that sees one value per channel of one image; "" if there is none.
    """

    maps: list[FeatureMap]
    output: tuple[int, ...]
    spreadless: str = ""

    def last(self) -> FeatureMap | None:
        """The last feature map that a norm gave, or a convolution where there is no norm; None without either."""
        return last_of(self.maps, _BatchNorm, nn.GroupNorm) or last_of(self.maps, nn.Conv2d)


def last_of(maps: list[FeatureMap], *kinds: type[nn.Module]) -> FeatureMap | None:
    """The last of `maps` that a module of these kinds gave; None if there is none."""
    return next((found for found in reversed(maps) if isinstance(found.module, kinds)), None)


def feature_sizes(network: nn.Module, side: int) -> list[FeatureSize]:
    """What every innermost module gives for one image of `side` px, in order of computation; the network stays as it was."""
    return [(found.name, *found.size) for found in walk(network, side).maps]


def walk(network: nn.Module, side: int, counting: AbstractContextManager[object] | None = None) -> Walk:
    """One image of `side` px through `network`, inside `counting`."""
    tensors = dict([*network.named_parameters(), *network.named_buffers()])
    first = next((tensor for tensor in tensors.values() if tensor.is_floating_point()), torch.empty(0))
    images = torch.zeros(1, 3, side, side, device=first.device, dtype=first.dtype)
    try:
        moved = {name: tensor.to("meta") for name, tensor in tensors.items()}
        with _NormsKeepShapes():
            return _pass(network, moved, images.to("meta"), counting or nullcontext())
    except Exception:  # a part of it that is not at home on the meta device; a real fault comes again
        return _pass(network, tensors, images, counting or nullcontext())


class _NormsKeepShapes(TorchFunctionMode):
    """A batch norm gives a feature map of the shape that it got. torch works that out step by step on the meta device, which takes
    several times as long as the rest of the pass. One whose channels do not fit goes to torch, which refuses it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is batch_norm and args[0].ndim > 1:
            images, *parameters = args
            given = [tensor for tensor in (*parameters, *(kwargs or {}).values()) if isinstance(tensor, Tensor)]
            if all(len(tensor) == images.shape[1] for tensor in given):
                return torch.empty_like(images)
        return func(*args, **(kwargs or {}))


def _pass(
    network: nn.Module, tensors: dict[str, Tensor], images: Tensor, counting: AbstractContextManager[object]
) -> Walk:
    """`images` through `network` with `tensors` in place of its own; what its innermost modules give."""
    maps: list[FeatureMap] = []
    spreadless: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def saw(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            given = inputs[0] if inputs else None
            if isinstance(module, _BatchNorm) and isinstance(given, Tensor) and given.numel() == given.shape[1]:
                spreadless.append(name)
            if isinstance(given, Tensor) and isinstance(output, Tensor) and given.ndim == output.ndim == 4:
                before = (given.shape[2], given.shape[3])
                maps.append(FeatureMap(name, module, before, (output.shape[1], output.shape[2], output.shape[3])))

        return saw

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in network.named_modules()
        if not any(module.children()) and not isinstance(module, nn.Identity | _DropoutNd)
    ]
    try:
        with evaluation_mode(network), torch.no_grad(), counting:
            output = functional_call(network, tensors, (images,))
    finally:
        for hook in hooks:
            hook.remove()
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    return Walk(maps, shape, next(iter(spreadless), ""))
