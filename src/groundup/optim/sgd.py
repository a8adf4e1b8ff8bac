"""SGD with (Nesterov) momentum: torch.optim.SGD over the groups of `groups.py`.

Source   Sutskever et al., "On the importance of initialization and momentum in deep learning" (2013), as in torch: the
         decay joins the gradient, buf = momentum * buf + grad, w -= lr * (grad + momentum * buf).
Values   rate 0.1 at batch 128 (scaled with the batch), momentum 0.9; weight_decay 5e-4 on CIFAR, 5e-5
         to 1e-4 on ImageNet.
Cost     one buffer the size of the weights.
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from groundup.optim.groups import BaseOptimizerSettings, WeightDecay


class SGDSettings(BaseOptimizerSettings):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = Field("sgd", description="Stochastic gradient descent with momentum.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum, in [0, 1); a schedule that cycles it takes over.")
    nesterov: bool = Field(True, description="Whether to look ahead by one momentum step; needs momentum above 0.")
    weight_decay: WeightDecay = 5e-4

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "SGDSettings":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=true needs momentum above 0, got momentum=0; set nesterov to false")
        return self

    def build(self, model: nn.Module, bfloat16: bool = False) -> torch.optim.SGD:
        return torch.optim.SGD(self.groups(model), lr=0.0, momentum=self.momentum, nesterov=self.nesterov, foreach=True)
