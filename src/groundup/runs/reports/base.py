"""What the sections of an evaluation share: the run that is looked at, and what they have to show.

Shapes   logits float32 (N, C), labels int64 (N,), on the CPU; images uint8 (B, 3, S, S) as stored, float32 (B, 3, S, S) normalised.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from groundup import augment
from groundup.basis.errors import UsageError
from groundup.basis.interruption import StopRequest
from groundup.data import ImageSet, MemoryLoader, Splits
from groundup.data.splits import stratified_choice
from groundup.data.superclasses import Superclasses, read_superclasses
from groundup.evaluation import TTA, TTA_COST, collect_logits
from groundup.models import forward_flops
from groundup.recipe import Recipe
from groundup.runs.folder import RunFolder
from groundup.runs.load import Classifier
from groundup.runs.prepare import constants, evaluation_batches
from groundup.training import Engine

Facts = dict[str, Any]
"""What a section measured, as `json` can write it. `pictures`: names of files in the run folder."""


@dataclass(frozen=True)
class Table:
    """Rows under their headings. `folded`: the line under which the page hides it and the terminal leaves it out, if any."""

    head: list[str]
    rows: list[list[str]]
    folded: str = ""


@dataclass(frozen=True)
class Shown:
    """What a section prints. `wide`: pictures whose details would be lost on a narrow screen, shown at their own size; `caption`:
    what is to be seen on them, for the page alone."""

    lines: list[str]
    tables: list[Table] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    wide: list[str] = field(default_factory=list)
    caption: str = ""


def _nothing_else(facts: Facts) -> str:
    return ""


def _the_new(old: Facts, new: Facts) -> Facts:
    return new


@dataclass(frozen=True)
class Section:
    """`title` heads it. `measure` is None where it takes more than one run.

    measured_on: what the facts are of besides a split, for sections that can be measured on several inputs; join: old and new facts
    of one input, by default the new ones.
    """

    title: str
    measure: "Callable[[Subject], Facts] | None"
    show: Callable[[Facts], Shown]
    measured_on: Callable[[Facts], str] = _nothing_else
    join: Callable[[Facts, Facts], Facts] = _the_new


@dataclass(frozen=True)
class Twin:
    """Another run of the same recipe on the same data, with a validation split: its logits, float32 (N, C), and labels there."""

    name: str
    logits: Tensor
    labels: Tensor


@dataclass
class Subject:
    """A finished run on one of its splits, ready to be evaluated. `tta` holds for every logit that is asked for.

    full: corruptions of the whole split; chosen: places in the split of images to look at; corrupted: the source of
    images that are corrupted already; own_data: the splits were handed in, and the recipe's source says nothing of them; twin: the
    run that a temperature is taken from, None: this one; tell: progress in words.
    """

    folder: RunFolder
    recipe: Recipe
    splits: Splits
    classifier: Classifier
    engine: Engine
    split: str
    tta: str = "none"
    full: bool = False
    chosen: tuple[int, ...] = ()
    corrupted: str | None = None
    own_data: bool = False
    twin: Twin | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    tell: Callable[[str], None] = lambda text: None
    _logits: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        """The network with the reported weights, on the engine's device, in evaluation mode."""
        return self.classifier.model

    @property
    def device(self) -> torch.device:
        return self.engine.torch_device

    @property
    def classes(self) -> list[str]:
        return self.classifier.classes

    @property
    def flop(self) -> int:
        """FLOP of an answer for one image, with the passes of its test-time augmentation."""
        return TTA_COST[self.tta] * forward_flops(self.model, self.splits.image_size)

    @property
    def view(self) -> str:
        """What the numbers are of, such as `test` or `test-flip`: part of the names of files."""
        return view_name(self.split, self.tta)

    def picture(self, kind: str, measured_on: str = "") -> Path:
        """Where a picture of this evaluation lies. `measured_on`: what tells it from others of the same split."""
        return self.folder.path / f"{kind}-{self.view}{'-' if measured_on else ''}{measured_on}.png"

    def part(self, split: str | None = None) -> ImageSet:
        """The images of a split, by default of the one that is evaluated."""
        splits = {"train": self.splits.train, "validation": self.splits.validation, "test": self.splits.test}
        found = splits.get(split or self.split)
        if found is None:
            raise UsageError(
                f"--split {split or self.split}: this run has no such split; "
                "allowed: train, test, or validation if it was carved"
            )
        return found

    def logits(self, split: str | None = None) -> tuple[Tensor, Tensor]:
        """Logits and labels of a whole split; computed once."""
        name = split or self.split
        if name not in self._logits:
            self._logits[name] = self.logits_of(self.part(name))
        return self._logits[name]

    def logits_of(self, images: ImageSet, model: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Logits and labels of `images`, by the run's network or by `model`."""
        return self.collect(evaluation_batches(self.loader(images), self.recipe), model)

    def collect(
        self, batches: Iterable[tuple[Tensor, Tensor]], model: nn.Module | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits and labels of batches of normalised images and labels."""
        return collect_logits(
            model or self.model, batches, forward=TTA[self.tta], autocast=self.engine.autocast, check=self.stop.check
        )

    def loader(self, images: ImageSet) -> MemoryLoader:
        """Batches of `images` on the device."""
        return MemoryLoader(images, self.device, self.recipe.data.cache)

    def batches(self, images: ImageSet) -> Iterator[tuple[Tensor, Tensor]]:
        """The images of a set in order, uint8 (B, 3, S, S), and labels, on the device."""
        return self.loader(images).batches(self.recipe.evaluate.batch_size)

    def normalized(self, images: Tensor) -> Tensor:
        """uint8 images as the network gets them."""
        return augment.normalize(images, *constants(self.recipe))

    def some(self, split: str, count: int, *seed: int | str) -> np.ndarray:
        """`count` positions in a split with the classes in proportion, or all if there are fewer: sorted, int64."""
        return stratified_choice(self.part(split).labels, count, *seed)

    @cached_property
    def superclasses(self) -> Superclasses | None:
        """The superclasses of the classes, where the data has them; what was handed in has none, whatever the recipe names."""
        if self.own_data:
            return None
        return read_superclasses(self.recipe.data, self.classes, self.stop.check)


def view_name(split: str, tta: str) -> str:
    """The name of an evaluation of a split: `test`, or `test-flip`."""
    return split if tta == "none" else f"{split}-{tta}"


def cost_per_image(facts: Facts) -> str:
    """What an answer costs, in words: its forward passes and, but in files of before, their FLOP."""
    passes = facts["forward_passes"]
    flop = f", {facts['flop'] / 1e9:.3g} GFLOP" if "flop" in facts else ""
    return f"{passes} forward pass{'es' * (passes != 1)}{flop} per image"


def percent(share: float | None, digits: int = 2) -> str:
    """A share in percent, a dash where there is none."""
    return "-" if share is None else f"{share:.{digits}%}"


def between(interval: Any, digits: int = 2) -> str:
    """An interval of shares in percent."""
    return f"{interval[0]:.{digits}%} to {interval[1]:.{digits}%}"


def pixels(images: ImageSet, positions: Any) -> Tensor:
    """The images at `positions`, uint8 (B, 3, H, W) in main memory."""
    return images.read(np.asarray(positions, dtype=np.int64)).permute(0, 3, 1, 2)
