"""Settings of the recipe's `track` section."""

from pydantic import Field

from groundup.basis.settings import Settings


class TrackSettings(Settings):
    """What is written while training, besides metrics.jsonl and the terminal, which are always there."""

    tensorboard: bool = Field(True, description="Write TensorBoard event files into the run folder's tensorboard/.")
    step_every: int = Field(
        10,
        ge=1,
        description="Steps between two tracked steps (loss, accuracy, learning rate, speed). Unit: steps, at least 1.",
    )
