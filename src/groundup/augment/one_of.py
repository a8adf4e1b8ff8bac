"""One of several operations for each image.

Shapes   images uint8 (B, 3, S, S) -> the same; parameters `choice` int64 (B,): which operation, from 0; and those of every
         operation under keys that begin with its place (`0.angle`, `1.seed`).
Source   albumentations' `OneOf`, torchvision's `RandomChoice` (there one operation for the whole batch).
Note     An operation that is chosen still acts with its own `p` only: give p 1 to those that shall always act. Operations may
         themselves be `one_of`.
Cost     parameters of all operations for the whole batch; a CPU then computes each operation on its own images, a GPU all
         operations on all images.
"""

from typing import TYPE_CHECKING, Annotated, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from groundup.augment.base import Batch, Operation, Parameters, RandomOperation, on_chosen

if TYPE_CHECKING:
    from groundup.augment import OperationSettings

_Weight = Annotated[float, Field(gt=0)]


class OneOf(RandomOperation):
    """Exactly one of several operations for each image that is changed."""

    name: Literal["one_of"] = Field(description="One of several operations.")
    # The union of all operations has this class among its members; `augment/__init__.py` completes it.
    operations: tuple["OperationSettings", ...] = Field(
        description="The operations, at least two, to choose from. The chosen one still acts with its own p only: "
        "give p 1 to those that shall always act."
    )
    weights: tuple[_Weight, ...] | None = Field(
        None, description="How often each is chosen, in proportion, above 0; null: all equally often."
    )

    @model_validator(mode="after")
    def _a_choice(self) -> "OneOf":
        # Not as `min_length`, which would count only the members that are valid.
        if len(self.operations) < 2:
            raise ValueError(
                f"operations: {len(self.operations)} of them; allowed: at least 2; one alone belongs in the policy itself"
            )
        if self.weights is not None and len(self.weights) != len(self.operations):
            raise ValueError(
                f"weights: {len(self.weights)} for {len(self.operations)} operations; allowed: one for each, or null"
            )
        return self

    def members(self) -> tuple[Operation, ...]:
        """The operations by their interface."""
        return cast(tuple[Operation, ...], self.operations)

    def draw_parameters(self, batch: Batch, generator: torch.Generator) -> Parameters:
        weights = torch.tensor(self.weights or [1.0] * len(self.operations), dtype=torch.float64)
        # Bounds as Python numbers: copying a tensor from the host waits for a GPU, and no step may wait.
        bounds = (weights.cumsum(0) / weights.sum()).tolist()[:-1]
        position = torch.rand(len(batch), generator=generator, device=batch.device)
        choice = torch.zeros(len(batch), dtype=torch.int64, device=batch.device)
        for bound in bounds:
            choice += position >= bound
        drawn: dict[str, Tensor] = {"choice": choice}
        for place, operation in enumerate(self.members()):
            drawn |= {f"{place}.{key}": value for key, value in operation.draw(batch, generator).items()}
        return drawn

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        for place, operation in enumerate(self.members()):
            prefix = f"{place}."
            own = {key.removeprefix(prefix): value for key, value in parameters.items() if key.startswith(prefix)}
            images = on_chosen(images, parameters["choice"] == place, own, operation.apply)
        return images
