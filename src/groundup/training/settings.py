"""Settings of the training room: the `train`, `phases`, `stop`, `evaluate` and `checkpoint` sections of a recipe."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PositiveInt,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_serializer,
    model_validator,
)

from groundup.augment import MixSettings, OperationSettings
from groundup.basis.duration import Duration
from groundup.basis.settings import Settings
from groundup.optim import ScheduleSettings

Metric = Literal[
    "validation_top1",
    "validation_loss",
    "average_validation_top1",
    "average_validation_loss",
    "train_top1",
    "train_loss",
]


def _auto_or_number(value: Any, number: ValidatorFunctionWrapHandler) -> Any:
    try:
        return value if value == "auto" else number(value)
    except ValidationError as error:
        if error.errors()[0]["type"] == "int_parsing":
            raise ValueError("needs a valid integer, or auto") from None
        raise


# A number wherever steps are made: only the recipe that a person wrote says `auto` (`TrainSettings.finds_batch_size`).
BatchSize = Annotated[PositiveInt, WrapValidator(_auto_or_number), PlainSerializer(lambda value: value)]


def _not_zero(interval: Duration) -> Duration:
    if interval.value == 0:
        raise ValueError("an interval of no length; allowed: 1step or more, such as 1ep")
    return interval


# How often something is done. One that a short run rounds down to no step at all is one step.
Interval = Annotated[Duration, AfterValidator(_not_zero)]


class TrainSettings(Settings):
    """How the training steps are made."""

    epochs: float = Field(gt=0, description="Length of the run in passes over the training split; may be fractional.")
    batch_size: BatchSize = Field(
        description="Images per step (one optimizer update), over all micro-batches. auto: the largest that fits into memory, at "
        "most 1024 and a tenth of the training split; it is found before the first step and written into the run's recipe."
    )
    micro_batch: PositiveInt | None = Field(
        None,
        description="Most images in one forward pass; gradients of the parts are accumulated. null: the whole batch.",
    )
    drop_last: bool = Field(
        True, description="Leave out the short last batch of an epoch (its images come again in another order)."
    )
    sampling: Literal["shuffle", "balanced"] = Field(
        "shuffle", description="Each image once per epoch, or classes drawn equally often, with replacement."
    )
    resolution: PositiveInt | None = Field(
        None, description="Side in px that training images are resized to on the device; null keeps the data's. Live."
    )
    device: str = Field(
        "auto", description="auto, cpu, cuda, cuda:N or mps; auto takes the first accelerator there is."
    )
    threads: PositiveInt | None = Field(
        None,
        description="CPU threads; null takes one per core that the process may use, shared among the processes of a machine.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Arithmetic of the network; auto takes bf16 where the hardware gains, fp16 on older GPUs, else fp32. "
        "A GPU multiplies fp32 in TF32 (10 bits after the point) where it can.",
    )
    channels_last: bool = Field(True, description="Keep images and filters in channels-last memory order.")
    compile: Literal["auto", "always", "never"] = Field(
        "auto", description="torch.compile; auto compiles on a GPU when the run is long enough to pay for it."
    )
    deterministic: bool = Field(
        False,
        description="On a GPU, only kernels that repeat bit for bit, so that a resume does; slower. A CPU needs no asking.",
    )
    clip_norm: float | None = Field(
        None, gt=0, description="Largest norm of the gradient; longer ones are scaled down."
    )
    sync_batch_norm: bool = Field(
        False,
        description="With several processes, whether batch norm sees the images of all of them (GPUs only), or each its own.",
    )
    collective_timeout: float = Field(
        600.0, gt=0, description="Seconds after which a process that waits for the others gives up."
    )

    @property
    def finds_batch_size(self) -> bool:
        """Whether the batch is still to be found: `auto`."""
        return not isinstance(self.batch_size, int)

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> "TrainSettings":
        if not self.finds_batch_size and self.micro_batch is not None and self.micro_batch > self.batch_size:
            raise ValueError(f"micro_batch={self.micro_batch}: larger than batch_size={self.batch_size}")
        return self


class LivePatch(Settings):
    """New values for live settings, under their recipe keys. Settings that are left out keep their value."""

    model_config = ConfigDict(populate_by_name=True)

    resolution: PositiveInt | None = Field(None, alias="train.resolution", description="Side in px of training images.")
    policy: tuple[OperationSettings, ...] | None = Field(
        None, alias="augment.policy", description="The augmentation policy."
    )
    label_smoothing: float | None = Field(
        None, alias="loss.label_smoothing", ge=0, lt=1, description="Label smoothing, in [0, 1)."
    )
    mix: MixSettings | None = Field(None, description="Mixing; `mix: {methods: []}` ends it.")
    dropout: float | None = Field(
        None, alias="model.dropout", ge=0, lt=1, description="Dropout inside the network's blocks, in [0, 1)."
    )
    schedule: ScheduleSettings | None = Field(
        None, description="Another schedule, on a clock of its own: it begins here and ends with the run."
    )

    @model_serializer(mode="wrap")
    def _what_is_set(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        # A key that is left out keeps its value; written as null it would be refused when the recipe is read again.
        fields = type(self).model_fields
        names = {(fields[key].alias or key) if info.by_alias else key for key in self.model_fields_set}
        return {name: value for name, value in write(self).items() if name in names}

    @model_validator(mode="after")
    def _not_empty(self) -> "LivePatch":
        if not self.model_fields_set:
            live = ", ".join(field.alias or key for key, field in type(self).model_fields.items())
            raise ValueError(f"sets nothing; allowed: {live}")
        for key in self.model_fields_set:
            if getattr(self, key) is None:
                raise ValueError(
                    f"{type(self).model_fields[key].alias}: null; write a value, or leave the key out to keep its value"
                )
        return self


class Phase(Settings):
    """From a given point on, other values for live settings."""

    model_config = ConfigDict(populate_by_name=True)

    start: Duration = Field(
        alias="from", description="When the phase begins; it lasts until a later phase sets the same key."
    )
    set: LivePatch = Field(description="Live settings and their values, e.g. `train.resolution: 24`.")


class EarlyStop(Settings):
    """End the run when a metric has stopped getting better."""

    metric: Metric = Field("validation_top1", description="What is watched; losses shall fall, accuracies rise.")
    patience: Duration = Field(description="How long the metric may fail to get better before the run ends.")
    min_gain: float = Field(
        0.0,
        ge=0,
        description="What counts as better: a gain above this, in the metric's unit; of an accuracy a fraction below 1.",
    )

    @model_validator(mode="after")
    def _can_be_gained(self) -> "EarlyStop":
        if self.metric.endswith("top1") and self.min_gain >= 1:
            raise ValueError(
                f"min_gain={self.min_gain:g}: {self.metric} is a fraction from 0 to 1, so that nothing would ever count as better; "
                f"allowed: below 1; for {self.min_gain:g} points of percent write {self.min_gain / 100:g}"
            )
        return self


class Target(Settings):
    """End the run when a metric has reached a value."""

    metric: Metric = Field("validation_top1", description="What is watched.")
    value: float = Field(ge=0, description="The value to reach: an accuracy is a fraction in [0, 1].")

    @model_validator(mode="after")
    def _can_be_reached(self) -> "Target":
        if self.metric.endswith("top1") and not 0 < self.value <= 1:
            raise ValueError(f"value={self.value:g}: {self.metric} is a fraction, above 0 and at most 1, such as 0.73")
        if self.metric.endswith("loss") and self.value == 0:
            raise ValueError(
                f"value=0: {self.metric} stays above 0 and would never reach it; allowed: above 0, such as 0.5"
            )
        return self


class StopSettings(Settings):
    """When a run may end before its length. Looked at after every evaluation."""

    early: EarlyStop | None = Field(None, description="Early stopping; null: never.")
    target: Target | None = Field(None, description="Stop as soon as a target is reached; null: never.")

    @property
    def metrics(self) -> dict[str, str]:
        """The metrics that are watched, under the keys that name them."""
        rules = {"early": self.early, "target": self.target}
        return {f"stop.{key}.metric": rule.metric for key, rule in rules.items() if rule is not None}


class EvaluateSettings(Settings):
    """When and how the model is evaluated during training. The test split is read once, after the last step."""

    every: Interval = Field(
        Duration(1, "ep"),
        description="How often a line is written to metrics.jsonl, evaluating validation if there is one.",
    )
    batch_size: PositiveInt = Field(500, description="Images per forward pass in evaluation.")
    model: Literal["last", "best"] = Field(
        "last", description="Which step is reported: the last, or the best on validation."
    )
    weights: Literal["auto", "model", "average"] = Field(
        "auto",
        description="Which weights are reported: the trained ones or their average; auto: the average if there is one.",
    )
    optimistic: bool = Field(
        False,
        description="Select, stop and schedule on the test split, as many projects do: the reported accuracy is then too "
        "high, and every table says so. Only to repeat what others did.",
    )


class CheckpointSettings(Settings):
    """When the state is saved, and how many checkpoints are kept."""

    every: Interval = Field(Duration(1, "ep"), description="How often the state is saved; it always is at the end.")
    keep: int = Field(
        2, ge=2, description="How many are kept. At least 2: if one is damaged the one before it is used."
    )
    keep_every: Interval | None = Field(
        None, description="Also keep, for good, the checkpoints at multiples of this; null: none."
    )
    mirror: str | None = Field(
        None,
        description="Where checkpoints are copied to in the background: s3://bucket/prefix, file:///folder, hf:owner/name, or "
        "another URL that fsspec writes to; null: nowhere. Credentials come from the environment, never from here.",
    )
    mirror_keep: int = Field(2, ge=1, description="How many checkpoints the mirror keeps, besides the best.")
    mirror_every: Interval | None = Field(
        None,
        description="At least so much training between two copies; null: every checkpoint. The last always is copied.",
    )

    @field_validator("mirror")
    @classmethod
    def _is_a_place(cls, url: str | None) -> str | None:
        if url is not None and (problem := mirror_problem(url)):
            raise ValueError(problem)
        return url


def mirror_problem(url: str) -> str | None:
    """What is wrong with the address of a mirror, or None. It must hold no credentials: it is written into recipe.yaml."""
    if re.search(r"//[^/]*@", url) or re.search(r"[?#]", url):
        return (
            "an address with a user, a password or a query is refused, because it is written into recipe.yaml; credentials come "
            "from the environment or the client's own configuration"
        )
    if url.startswith("hf:"):
        return None if re.fullmatch(r"hf:[\w.-]+/[\w.-]+", url) else "a repository of the Hub is written hf:owner/name"
    if re.match(r"https?:", url):
        return "a web server can be read but not written to"
    if re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/][^\s]*|file:///[^\s]+", url):
        return None
    return "allowed: s3://bucket/prefix, file:///folder, hf:owner/name, or another fsspec address, scheme://place"
