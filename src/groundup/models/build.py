"""From settings to a network whose initial weights are a pure function of (settings, number of classes, seed).

The weights are float32 and are drawn on the CPU, so that they do not depend on the device that trains.
"""

from typing import Protocol

import torch
from torch import nn

from groundup.basis.errors import UsageError
from groundup.basis.seeding import seed_from


class NetworkSettings(Protocol):
    """What every settings class of this room offers."""

    @property
    def smallest_image(self) -> int:
        """Smallest side in pixels that the network can take."""

    def build(self, num_classes: int) -> nn.Module:
        """The network with fresh weights from the global generator."""


def build_model(settings: NetworkSettings, *, num_classes: int, seed: int) -> nn.Module:
    """The network that `settings` describe, on the CPU, in training mode.

    `num_classes`: at least 2. `seed`: the recipe's. The global generators of torch are left as they were found, those
    of other devices included.
    """
    if num_classes < 2:
        raise UsageError(
            f"num_classes={num_classes}: a classifier needs at least 2 classes",
            hint="check data.source and data.label: the labels found there name the classes",
        )
    # Not torch.manual_seed: it would seed the generators of every device, which fork_rng(devices=[]) does not put back.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed_from(seed, "init"))
        return settings.build(num_classes)
