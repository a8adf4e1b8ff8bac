"""Settings of the recipe's `track` section."""

from typing import Literal

from pydantic import Field

from groundup.basis.settings import Settings

WandbMode = Literal["off", "offline", "online"]


class TrackSettings(Settings):
    """What is written while training, besides metrics.jsonl and the terminal, which are always there."""

    tensorboard: bool = Field(True, description="Write TensorBoard event files into the run folder's tensorboard/.")
    wandb: WandbMode = Field(
        "off",
        description="Weights & Biases (extra `wandb`): off; offline (files in the run folder's wandb/, nothing is sent; "
        "`wandb sync` sends them later); or online (sent while training, as the account `wandb login` knows).",
    )
    wandb_project: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        pattern=r"^[^/\\#?%:]+$",
        description="The Weights & Biases project that the run belongs to, without / \\ # ? % :. None: groundup.",
    )
    step_every: int = Field(
        10,
        ge=1,
        description="Steps between two tracked steps (loss, accuracy, learning rate, speed). Unit: steps, at least 1.",
    )
