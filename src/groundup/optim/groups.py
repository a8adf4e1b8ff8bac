"""Parameter groups: which parameters decay, and at which multiple of the schedule's learning rate they move.

Groups, in this order, each only if it has parameters; every trainable parameter is in exactly one of them:
    filters      weights of 2 or more dimensions, except the head's            decays
    head         weight of the final classifier, the last nn.Linear            decays      head_lr_scale
    norms        other parameters of at most 1 dimension: norm weights, scales             norm_lr_scale
    biases       parameters of at most 1 dimension named `...bias`                         bias_lr_scale
    head_bias    bias of the final classifier                                              head_lr_scale

Norms and biases decay only when asked to. Frozen parameters (requires_grad False) are left out.

Source   no decay on norms and biases: He et al., "Bag of Tricks for Image Classification" (2019), section 3.1; a bias
         rate of 64 times the filters' under SGD: the CIFAR-10 speed records (hlb-CIFAR10, airbench).
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from groundup.basis.errors import UsageError
from groundup.basis.settings import Settings
from groundup.optim.sam import SAMSettings
from groundup.optim.schedules import LiveRates

WeightDecay = Annotated[
    float, Field(ge=0, description="Weight decay, from 0. Norms and biases take it only with decay_norm_and_bias.")
]
LrScale = Annotated[float, Field(gt=0)]

# What a multiple acts on: in words, and the names of the groups.
_MEANT = {
    "bias_lr_scale": ("biases outside the head", {"biases"}),
    "head_lr_scale": ("final classifier (nn.Linear)", {"head", "head_bias"}),
    "norm_lr_scale": ("norm weights", {"norms"}),
}


@dataclass(frozen=True)
class GroupScales:
    """Learning rates of the kinds of parameters, as multiples of the schedule's."""

    bias: float = 1.0
    head: float = 1.0
    norm: float = 1.0


class BaseOptimizerSettings(Settings):
    """Base of all optimizer settings. There is no learning rate here: the schedule is the one place that holds it."""

    name: str = Field(description="Which optimizer.")
    weight_decay: WeightDecay = 0.0
    decay_norm_and_bias: bool = Field(False, description="Whether norms and biases decay too.")
    bias_lr_scale: LrScale = Field(
        1.0, description="Learning rate of the biases (but the head's), as a multiple of the schedule's, above 0."
    )
    head_lr_scale: LrScale = Field(
        1.0, description="Learning rate of the final classifier, as a multiple of the schedule's, above 0."
    )

    sam: SAMSettings | None = Field(None, description="Sharpness-aware minimization around the updates; null: none.")

    @abstractmethod
    def build(self, model: nn.Module, bfloat16: bool = False) -> torch.optim.Optimizer:
        """The optimizer of the trainable parameters of `model`. Its rates are 0 until `apply_rates` sets them. `bfloat16`: whether
        products of its own may be made in it, as those of the network are."""

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The parameter groups of `model`; UsageError for a multiple that was set and has nothing to act on."""
        groups = parameter_groups(
            model, weight_decay=self.weight_decay, decay_norm_and_bias=self.decay_norm_and_bias, scales=self._scales()
        )
        found = {group["name"] for group in groups}
        for key, (meant, names) in _MEANT.items():
            if key not in type(self).model_fields:
                continue
            value, default = getattr(self, key), type(self).model_fields[key].default
            if value != default and not names & found:
                raise UsageError(
                    f"optimizer.{key}={value:g}: the model has no trainable {meant}; allowed: {default:g}",
                    hint=f"remove optimizer.{key}",
                )
        return groups

    def _scales(self) -> GroupScales:
        return GroupScales(bias=self.bias_lr_scale, head=self.head_lr_scale)


def parameter_groups(
    model: nn.Module, *, weight_decay: float, decay_norm_and_bias: bool = False, scales: GroupScales | None = None
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer, with the keys `name`, `params`, `weight_decay` and `lr_scale`, in a fixed order."""
    scales = scales or GroupScales()
    head = _head(model)
    groups: dict[str, dict[str, Any]] = {
        name: {"name": name, "params": [], "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}
        for name, decays, scale in (
            ("filters", True, 1.0),
            ("head", True, scales.head),
            ("norms", decay_norm_and_bias, scales.norm),
            ("biases", decay_norm_and_bias, scales.bias),
            ("head_bias", decay_norm_and_bias, scales.head),
        )
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[_kind(name, parameter, head)]["params"].append(parameter)
    if not any(group["params"] for group in groups.values()):
        raise UsageError("the model has no trainable parameters", hint="leave requires_grad on for some of them")
    return [group for group in groups.values() if group["params"]]


def apply_rates(optimizer: torch.optim.Optimizer, rates: LiveRates) -> None:
    """Set the learning rate of every group, and the momentum (AdamW: the first beta): the schedule's where it cycles it, else the
    optimizer's own, also after a phase that has cycled it."""
    for group in optimizer.param_groups:
        group["lr"] = rates.lr * group["lr_scale"]
        own = group.setdefault("own_momentum", group["betas"][0] if "betas" in group else group["momentum"])
        momentum = own if rates.momentum is None else rates.momentum
        if "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


def _head(model: nn.Module) -> nn.Linear | None:
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linears[-1] if linears else None


def _kind(name: str, parameter: nn.Parameter, head: nn.Linear | None) -> str:
    if head is not None and parameter is head.weight:
        return "head"
    if head is not None and parameter is head.bias:
        return "head_bias"
    if parameter.ndim >= 2:
        return "filters"
    return "biases" if name.endswith("bias") else "norms"
