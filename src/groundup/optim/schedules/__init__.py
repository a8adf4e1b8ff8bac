"""Schedules: the learning rate (and momentum) of every step, as pure functions of (settings, step, clock).

A new schedule is one file and one line in `SCHEDULES` and `ScheduleSettings`.
"""

from typing import Annotated

from pydantic import Field

from groundup.optim.schedules.base import LiveRates, Schedule, curve
from groundup.optim.schedules.constant import ConstantSettings
from groundup.optim.schedules.cosine import CosineSettings
from groundup.optim.schedules.linear import LinearSettings
from groundup.optim.schedules.one_cycle import OneCycleSettings
from groundup.optim.schedules.step import StepSettings
from groundup.optim.schedules.trapezoid import TrapezoidSettings

SCHEDULES: dict[str, type[Schedule]] = {
    "constant": ConstantSettings,
    "linear": LinearSettings,
    "cosine": CosineSettings,
    "one_cycle": OneCycleSettings,
    "trapezoid": TrapezoidSettings,
    "step": StepSettings,
}

ScheduleSettings = Annotated[
    ConstantSettings | LinearSettings | CosineSettings | OneCycleSettings | TrapezoidSettings | StepSettings,
    Field(discriminator="name"),
]

__all__ = [
    "SCHEDULES",
    "ConstantSettings",
    "CosineSettings",
    "LinearSettings",
    "LiveRates",
    "OneCycleSettings",
    "Schedule",
    "ScheduleSettings",
    "StepSettings",
    "TrapezoidSettings",
    "curve",
]
