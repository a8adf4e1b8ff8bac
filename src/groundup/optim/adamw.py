"""AdamW: torch.optim.AdamW over the groups of `groups.py`. A schedule that cycles the momentum drives the first beta.

Source   Loshchilov, Hutter, "Decoupled Weight Decay Regularization" (2019). As in torch, the decay of one step is
         lr * weight_decay, so it follows the schedule.
Values   rate 1e-3, weight_decay 0.01 to 0.05.
Cost     two buffers the size of the weights.
Hurts    against tuned SGD on small convolutional nets, usually by some tenths of a point to a point.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from groundup.optim.groups import BaseOptimizerSettings, WeightDecay

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamWSettings(BaseOptimizerSettings):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = Field("adamw", description="Adam with decoupled weight decay.")
    betas: tuple[Beta, Beta] = Field(
        (0.9, 0.999), description="Decay rates of the first and second moment, each in [0, 1)."
    )
    eps: float = Field(1e-8, gt=0, description="Added to the root of the second moment, above 0.")
    weight_decay: WeightDecay = 0.01

    def build(self, model: nn.Module, bfloat16: bool = False) -> torch.optim.AdamW:
        return torch.optim.AdamW(self.groups(model), lr=0.0, betas=self.betas, eps=self.eps, foreach=True)
