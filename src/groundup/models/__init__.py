"""The networks: images float (N, 3, H, W) in, logits float (N, num_classes) out; counting what they hold and compute.

`MODELS` is the family: from the name in a recipe to the settings class. A new network is one file, one entry in
`MODELS` and one member of `ModelSettings`.
"""

from typing import Annotated

from pydantic import Field

from groundup.basis.settings import Settings
from groundup.models.build import NetworkSettings, build_model
from groundup.models.counting import count_parameters, forward_flops
from groundup.models.preact_resnet import PreActResNetSettings
from groundup.models.regularization import has_block_dropout, set_dropout
from groundup.models.resnet import ResNetSettings
from groundup.models.speed_net import SpeedNetSettings
from groundup.models.wide_resnet import WideResNetSettings

MODELS: dict[str, type[Settings]] = {
    "resnet18": ResNetSettings,
    "resnet34": ResNetSettings,
    "resnet50": ResNetSettings,
    "preact_resnet18": PreActResNetSettings,
    "wide_resnet": WideResNetSettings,
    "speed_net": SpeedNetSettings,
}

ModelSettings = Annotated[
    ResNetSettings | PreActResNetSettings | WideResNetSettings | SpeedNetSettings,
    Field(discriminator="name"),
]

__all__ = [
    "MODELS",
    "ModelSettings",
    "NetworkSettings",
    "PreActResNetSettings",
    "ResNetSettings",
    "SpeedNetSettings",
    "WideResNetSettings",
    "build_model",
    "count_parameters",
    "forward_flops",
    "has_block_dropout",
    "set_dropout",
]
