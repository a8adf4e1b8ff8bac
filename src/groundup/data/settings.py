"""The `data` section of a recipe: where the images come from and how they are brought to one size and split."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from groundup.basis.errors import listed, nearest
from groundup.basis.settings import Settings

# Kind of source -> how it is written. The functions that open them are `groundup.data.DOORS`, under the same names.
FORMS = {
    "digits": "digits",
    "hub": "hub:OWNER/NAME[:CONFIG][?streaming]",
    "parquet": "parquet:DIR[?streaming]",
    "folder": "folder:DIR",
    "arrays": "arrays:FILE.npz",
    "webdataset": "webdataset:SHARDS",
}
STREAMING = "?streaming"
_WITH_COLUMNS = ("hub", "parquet")

Resize = Literal["squash", "crop", "pad"]
OnBadImage = Literal["fail", "skip"]
CacheMode = Literal["device", "host", "disk", "none"]
Workers = Annotated[int, Field(ge=0, le=256)] | Literal["auto"]


class DataSettings(Settings):
    """What to train on. All but `validation`, `split_seed`, `limit`, `cache`, `workers` and `prefetch` decide what is decoded."""

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
        default="fail",
        description="A damaged image ends the run (fail) or is left out, named and counted (skip); among the training images of a "
        "stream the next whole one of its class stands in for it.",
    )
    cache: CacheMode = Field(
        default="device",
        description="Where the decoded pixels (images x side x side x 3 bytes) are during a run: device (the accelerator's "
        "memory, fastest), host (main memory, batches are copied to the device), disk (the file of decoded images, read "
        "batch by batch) or none (no such file: each batch is decoded from the source; the first start decodes everything "
        "once to check it). The numbers of a run do not depend on it, with one exception: with none, a policy that begins with "
        "random_resized_crop cuts its windows out of the images as the source has them, not out of those brought to `resolution`. "
        "A stream (webdataset, ?streaming) has none, and "
        "nothing is decoded before it is needed.",
    )
    workers: Workers = Field(
        default="auto",
        description="Threads that decode training images with cache=none: a number (0: the training itself decodes, when it needs "
        "a batch) or auto (beside an accelerator every core but one, at most 16; where the CPU trains, a quarter of the cores). "
        "No result depends on it.",
    )
    prefetch: int = Field(
        default=4,
        ge=0,
        le=64,
        description="Micro-batches that are decoded ahead with cache=none, as many of them as 1 GB holds. No result depends on it.",
    )
    shuffle_window: int = Field(
        default=16,
        ge=1,
        description="Shards of a stream whose images are shuffled together: the shards come in a new order in every epoch, "
        "so many at a time. Streams only.",
    )
    shard_cache_gb: float = Field(
        default=20.0,
        gt=0,
        description="Disk space in GB (10^9 bytes) that the shards of streams may take in the cache of this machine, the "
        "least recently used go first. It should hold two windows of shards. Local tar files are read where they are.",
    )

    @model_validator(mode="before")
    @classmethod
    def _a_stream_has_no_cache(cls, given: Any) -> Any:
        if isinstance(given, dict) and "cache" not in given and _streams(str(given.get("source", ""))):
            return {**given, "cache": "none"}
        return given

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
            well_formed = re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.+-]+)?", place.removesuffix(STREAMING)) is not None
        else:
            well_formed = bool(place.strip())
        if not well_formed:
            raise ValueError(f"{source!r} is incomplete; write {FORMS[kind]}")
        if source.endswith(STREAMING) and kind not in _WITH_COLUMNS:
            raise ValueError(
                f"{source!r}: {STREAMING} is for {listed(_WITH_COLUMNS)}; write {FORMS[kind]}, or pack it into shards "
                "with `groundup data pack`"
            )
        if re.search(r"://[^/]*@|[?&][\w-]*(token|signature|credential|secret|password)[\w-]*=", source, re.IGNORECASE):
            raise ValueError(
                "the address holds a password or a token, which would be written into the run folder; "
                "leave it out and give it to fsspec through the environment or its configuration files"
            )
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

    @model_validator(mode="after")
    def _streams_are_not_cached(self) -> "DataSettings":
        if self.streaming and self.cache != "none":
            raise ValueError(
                f"data.cache={self.cache!r}: the images of a stream are decoded when they are read and kept nowhere; "
                "set data.cache=none"
            )
        return self

    @property
    def streaming(self) -> bool:
        """Whether the data is read shard by shard and decoded when it is needed."""
        return _streams(self.source)

    @property
    def kind(self) -> str:
        """The kind of source, a key of `FORMS`."""
        return self.source.partition(":")[0]

    @property
    def place(self) -> str:
        """What follows the colon of `source`, as the user wrote it, without `?streaming`."""
        return self.source.partition(":")[2].removesuffix(STREAMING)


def has_columns(source: str) -> bool:
    """Whether a source of this form has columns, of which `image` and `label` name two."""
    return source.partition(":")[0] in _WITH_COLUMNS


def _streams(source: str) -> bool:
    kind = source.partition(":")[0]
    return kind == "webdataset" or (kind in _WITH_COLUMNS and source.endswith(STREAMING))
