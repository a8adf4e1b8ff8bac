"""The base class of every settings object: strict, frozen, each field with a description."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Settings of one method or one section of a recipe. Unknown keys are errors; values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
