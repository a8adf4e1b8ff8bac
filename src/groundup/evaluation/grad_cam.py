"""Grad-CAM: where in an image the evidence for a class lies, as the last feature map sees it.

Shapes   images float32 (B, 3, H, W), normalised; targets int64 (B,), the classes asked about -> float32 (B, H, W) in [0, 1], on
         the CPU: 1 is the hottest place of each image, all 0 where nothing speaks for the class.
Source   R. Selvaraju et al., Grad-CAM: Visual explanations from deep networks via gradient-based localization, 2017: channels of
         the feature map weighed by the mean gradient of the class score, summed, cut at 0.
Here     the feature map is the last one that any module gives with a side of 2 or more: a 1 x 1 map has no places.
Hurts    the map is as coarse as its side (4 x 4 for a ResNet-18 at 32 px): it shows a region, not an outline. It says where the
         score is sensitive, not why the network is wrong.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.evaluation.collect import evaluation_mode


def grad_cam(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor | None:
    """The heat of each image for its target; None for a network that makes no feature map of 2 x 2 or more."""
    maps: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1 and output.requires_grad:
            maps[:] = [output]

    hooks = [module.register_forward_hook(keep) for module in model.modules()]
    try:
        with evaluation_mode(model), torch.enable_grad():
            # A gradient of the images, so that a network with frozen weights has one too.
            logits = model(images.detach().requires_grad_(True))
            if not maps:
                return None
            score = logits.float().gather(1, targets.to(logits.device)[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, maps[0])
    finally:
        for hook in hooks:
            hook.remove()
    weights = gradient.float().mean((2, 3), keepdim=True)
    heat = (weights * maps[0].detach().float()).sum(1, keepdim=True).relu()
    heat = F.interpolate(heat, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    most = heat.amax((1, 2), keepdim=True)
    return torch.where(most > 0, heat / most.clamp(min=1e-30), 0.0).cpu()
