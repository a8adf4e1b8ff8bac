"""The `data` section of a recipe: where the images come from and how they are brought to one size and split."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from groundup.basis.errors import listed, nearest
from groundup.basis.settings import Settings

# Kind of source -> how it is written. The functions that open them are `groundup.data.DOORS`, under the same names.
FORMS = {
    "digits": "digits",
    "hub": "hub:OWNER/NAME",
    "parquet": "parquet:DIR",
    "folder": "folder:DIR",
    "arrays": "arrays:FILE.npz",
}
_WITH_COLUMNS = ("hub", "parquet")

Resize = Literal["squash", "crop", "pad"]
OnBadImage = Literal["fail", "skip"]
CacheMode = Literal["device", "host", "disk", "none"]


class DataSettings(Settings):
    """What to train on. All but `validation`, `split_seed`, `limit` and `cache` decide what is decoded."""

    source: str = Field(description=f"Where the images come from: {', '.join(FORMS.values())}.")
    image: str | None = Field(
        default=None, description="Column that holds the image (hub and parquet only). None: it is found."
    )
    label: str | None = Field(
        default=None,
        description="Column that holds the label (hub and parquet only). None: it is found; if several columns could "
        "be it, name one.",
    )
    resolution: int | None = Field(
        default=None,
        ge=1,
        description="Side of the square images in pixels. None: the data's own, if all images have one size.",
    )
    resize: Resize = Field(
        default="squash",
        description="How an image is brought to `resolution`: squash (change the aspect ratio), crop (shorter side to "
        "the resolution, middle square kept) or pad (longer side to the resolution, black borders).",
    )
    validation: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the training images carved out for validation, the same for each class (0: none).",
    )
    split_seed: int = Field(
        default=0,
        description="Seed of the splits made here (validation, test where the source has none, limit). Independent of "
        "the run's seed, so that runs with different seeds share one split.",
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description="Largest number of training images, chosen with the classes in proportion before validation is "
        "carved. None: all.",
    )
    on_bad_image: OnBadImage = Field(
        default="fail", description="A damaged image ends the run (fail) or is left out, named and counted (skip)."
    )
    cache: CacheMode = Field(
        default="device",
        description="Where the decoded pixels (images x side x side x 3 bytes) are during a run: device (the accelerator's "
        "memory, fastest), host (main memory, batches are copied to the device), disk (the file of decoded images, read "
        "batch by batch) or none (no such file: each batch is decoded from the source; the first start decodes everything "
        "once to check it). The numbers of a run do not depend on it.",
    )

    @field_validator("source")
    @classmethod
    def _known_form(cls, source: str) -> str:
        kind, colon, place = source.partition(":")
        if kind not in FORMS:
            near = nearest(kind, FORMS)
            meant = f"; did you mean {FORMS[near]!r}?" if near else ""
            raise ValueError(f"unknown kind of source {kind!r}; allowed: {listed(FORMS.values())}{meant}")
        if kind == "digits":
            well_formed = not colon
        elif kind == "hub":
            well_formed = re.fullmatch(r"[\w.-]+/[\w.-]+", place) is not None
        else:
            well_formed = bool(place.strip())
        if not well_formed:
            raise ValueError(f"{source!r} is incomplete; write {FORMS[kind]}")
        return source

    @model_validator(mode="after")
    def _columns_exist(self) -> "DataSettings":
        for key in ("image", "label"):
            if getattr(self, key) is not None and self.kind not in _WITH_COLUMNS:
                raise ValueError(
                    f"data.{key}={getattr(self, key)!r}: {self.kind!r} has no columns; "
                    f"only {listed(_WITH_COLUMNS)} have"
                )
        return self

    @property
    def kind(self) -> str:
        """The kind of source, a key of `FORMS`."""
        return self.source.partition(":")[0]

    @property
    def place(self) -> str:
        """What follows the colon of `source`, as the user wrote it."""
        return self.source.partition(":")[2]
