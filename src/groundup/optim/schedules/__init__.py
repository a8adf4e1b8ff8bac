"""Schedules: the learning rate (and momentum) of every step, as pure functions of (settings, step, clock, memory).

A new schedule is one file and one line in `SCHEDULES` and `ScheduleSettings`.
"""

from typing import Annotated

from pydantic import Field

from groundup.optim.schedules.base import LiveRates, Memory, Schedule, curve
from groundup.optim.schedules.constant import ConstantSettings
from groundup.optim.schedules.cosine import CosineSettings
from groundup.optim.schedules.cosine_restarts import CosineRestartsSettings
from groundup.optim.schedules.exponential import ExponentialSettings
from groundup.optim.schedules.inverse_sqrt import InverseSqrtSettings
from groundup.optim.schedules.linear import LinearSettings
from groundup.optim.schedules.one_cycle import OneCycleSettings
from groundup.optim.schedules.plateau import PlateauSettings
from groundup.optim.schedules.polynomial import PolynomialSettings
from groundup.optim.schedules.ramp import RampSettings
from groundup.optim.schedules.sequence import SequencePart, SequenceSettings
from groundup.optim.schedules.step import StepSettings
from groundup.optim.schedules.trapezoid import TrapezoidSettings

SCHEDULES: dict[str, type[Schedule]] = {
    "constant": ConstantSettings,
    "linear": LinearSettings,
    "cosine": CosineSettings,
    "one_cycle": OneCycleSettings,
    "trapezoid": TrapezoidSettings,
    "step": StepSettings,
    "cosine_restarts": CosineRestartsSettings,
    "ramp": RampSettings,
    "exponential": ExponentialSettings,
    "polynomial": PolynomialSettings,
    "inverse_sqrt": InverseSqrtSettings,
    "plateau": PlateauSettings,
    "sequence": SequenceSettings,
}

ScheduleSettings = Annotated[
    ConstantSettings
    | LinearSettings
    | CosineSettings
    | OneCycleSettings
    | TrapezoidSettings
    | StepSettings
    | CosineRestartsSettings
    | RampSettings
    | ExponentialSettings
    | PolynomialSettings
    | InverseSqrtSettings
    | PlateauSettings
    | SequenceSettings,
    Field(discriminator="name"),
]

# A part of a sequence is any schedule, a sequence too: only now can these two classes be completed.
SequencePart.model_rebuild(_types_namespace={"ScheduleSettings": ScheduleSettings})
SequenceSettings.model_rebuild()

__all__ = [
    "SCHEDULES",
    "ConstantSettings",
    "CosineRestartsSettings",
    "CosineSettings",
    "ExponentialSettings",
    "InverseSqrtSettings",
    "LinearSettings",
    "LiveRates",
    "Memory",
    "OneCycleSettings",
    "PlateauSettings",
    "PolynomialSettings",
    "RampSettings",
    "Schedule",
    "ScheduleSettings",
    "SequencePart",
    "SequenceSettings",
    "StepSettings",
    "TrapezoidSettings",
    "curve",
]
