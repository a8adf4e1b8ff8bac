"""What the static checks look at: a recipe, its times, and what is known of its data before anything heavy is built."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from groundup.basis.duration import Clock
from groundup.data import Splits, batches_per_epoch
from groundup.recipe import Recipe
from groundup.training import LiveSchedule, LiveValues, Rates, SWASettings


@dataclass(frozen=True)
class Subject:
    """A run that has not begun.

    train_images: images of the training split, without those held back for validation; image_size: side in px of the data's images;
    labels: int64 (train_images,) of the training split, on the CPU; network, splits: None where only the recipe is at hand;
    processes: how many train together.
    """

    recipe: Recipe
    clock: Clock
    live: LiveSchedule
    rates: Rates
    classes: int
    image_size: int
    train_images: int
    labels: Tensor
    network: nn.Module | None = None
    splits: Splits | None = None
    processes: int = 1


def timetable(recipe: Recipe, clock: Clock, image_size: int) -> tuple[LiveSchedule, Rates]:
    """What is in force at every step of a run. `image_size`: of the stored images, px. UsageError for a phase past the end."""
    touches_dropout = any(phase.set.dropout is not None for phase in recipe.phases)
    base = LiveValues(
        recipe.train.resolution or image_size,
        recipe.augment.policy,
        recipe.loss.label_smoothing,
        recipe.mix,
        getattr(recipe.model, "dropout", None) if touches_dropout else None,
    )
    live = LiveSchedule.of(base, recipe.phases, clock)
    swa = recipe.average if isinstance(recipe.average, SWASettings) else None
    rates = Rates.of(recipe.schedule, recipe.phases, clock, swa)
    return live, rates


def subject_of(recipe: Recipe, *, train_images: int = 50_000, classes: int = 100, image_size: int = 32) -> Subject:
    """A subject without data and network, for balanced classes.

    train_images: of the source; what the recipe holds back for validation is taken off. UsageError, as from a real start,
    if a phase, a schedule or an average does not fit into the run.
    """
    recipe_images = min(train_images, recipe.data.limit or train_images)
    count = recipe_images - round(recipe.data.validation * recipe_images)
    clock = recipe.clock(max(1, batches_per_epoch(count, recipe.train.batch_size, recipe.train.drop_last)))
    live, rates = timetable(recipe, clock, image_size)
    rates.check()
    recipe.average.check(clock)
    labels = torch.arange(count) % classes
    return Subject(recipe, clock, live, rates, classes, image_size, count, labels)
