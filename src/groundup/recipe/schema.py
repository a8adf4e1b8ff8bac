"""The recipe: one object that says everything about a run. It composes the settings of the rooms; its own are what rooms further
down read and what changes no result: the claim, what the check leaves out, what an hour costs."""

import re

from pydantic import Field, field_validator

from groundup.augment import AugmentSettings, MixSettings
from groundup.basis.duration import Clock, Duration
from groundup.basis.settings import Settings
from groundup.data import DataSettings
from groundup.models import ModelSettings
from groundup.optim import CrossEntropySettings, LossSettings, OptimizerSettings, ScheduleSettings
from groundup.tracking import TrackSettings
from groundup.training import (
    AverageSettings,
    CheckpointSettings,
    EvaluateSettings,
    NoAverage,
    Phase,
    StopSettings,
    TrainSettings,
)

# Names become names of folders, and a recipe may come from anybody: no separators, no `..`, no hidden file, no option.
_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]*")
_LONGEST_NAME = 100


class Claim(Settings):
    """What a recipe should reach, on what, and where the figure comes from."""

    top1: float | None = Field(None, ge=0, le=1, description="Test top-1 accuracy, a fraction; null: not measured yet.")
    seeds: int = Field(0, ge=0, description="Number of seeds behind the figure; 0: taken from the source.")
    optimistic: bool = Field(
        False, description="Whether a setting was chosen with the test split in sight, so that the figure is too high."
    )
    pflop: float | None = Field(None, gt=0, description="Training compute of one run in PFLOP.")
    differs: str | None = Field(
        None,
        description="What was done for the figure and is not by this recipe; printed beside it. null: nothing known.",
    )
    hardware: str | None = Field(None, description="Where it was measured.")
    source: str = Field(description="The measurement's command, or the publication.")


class CheckSettings(Settings):
    """What `groundup check`, and the check that opens a run, leave out."""

    ignore: tuple[str, ...] = Field((), description="Codes of findings to leave out, such as GU101, in a list.")


class CostSettings(Settings):
    """What the machine costs, for the estimate of `groundup check`."""

    per_hour: float | None = Field(
        None, ge=0, description="Price of an hour of the machine, in any currency; null: not told."
    )


class Recipe(Settings):
    """Everything about a training run."""

    name: str = Field(
        description="Name of the recipe; run folders are named after it. Letters, digits, `.`, `_`, `-` and `+`, not beginning "
        f"with a dot or a dash; at most {_LONGEST_NAME} of them."
    )
    about: str = Field("", description="What the recipe is for, in a sentence.")
    claim: Claim | None = Field(None, description="What it should reach, on what, from which source.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of weights, order, augmentation and dropout.")
    data: DataSettings = Field(description="Where the images come from, and how they are split.")
    model: ModelSettings = Field(description="The network.")
    augment: AugmentSettings = Field(default_factory=AugmentSettings, description="What is done to training images.")
    mix: MixSettings = Field(default_factory=MixSettings, description="Mixing of pairs of training images.")
    loss: LossSettings = Field(default_factory=CrossEntropySettings, description="The training loss.")
    optimizer: OptimizerSettings = Field(
        description="How gradients become updates; the learning rate is in `schedule`."
    )
    schedule: ScheduleSettings = Field(description="The learning rate of every step.")
    train: TrainSettings = Field(description="Length, batch, device and arithmetic.")
    average: AverageSettings = Field(
        default_factory=lambda: NoAverage(name="none"), description="An average of the weights along the run."
    )
    phases: tuple[Phase, ...] = Field((), description="From given points on, other values for live settings.")
    stop: StopSettings = Field(default_factory=StopSettings, description="When the run may end before its length.")
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings, description="When and how to evaluate.")
    checkpoint: CheckpointSettings = Field(default_factory=CheckpointSettings, description="When to save.")
    track: TrackSettings = Field(default_factory=TrackSettings, description="What is written while training.")
    check: CheckSettings = Field(default_factory=CheckSettings, description="What the check before a run leaves out.")
    cost: CostSettings = Field(default_factory=CostSettings, description="What the machine costs.")

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
            raise ValueError(
                f"run folders are named after it; allowed: letters (a to z), digits, '.', '_', '-' and '+', not beginning with a "
                f"dot or a dash, at most {_LONGEST_NAME} of them"
            )
        return name

    def clock(self, steps_per_epoch: int) -> Clock:
        """The clock of a run of this recipe over data with that many steps per epoch."""
        return Clock.of(Duration(self.train.epochs, "ep"), steps_per_epoch)
