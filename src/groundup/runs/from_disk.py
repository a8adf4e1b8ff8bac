"""Training from disk: what of a recipe is done while images are decoded, and the loader that does it.

With data.cache=none a policy that begins with random_resized_crop is taken apart: the loader draws that operation's windows and
cuts them out of the images as the source has them, at the input size of the step; the rest of the policy stays on the device.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from groundup.augment import Operation, mix_groups
from groundup.augment.random_resized_crop import RandomResizedCrop
from groundup.data import DecodingLoader, MemoryLoader, SourceImages, Splits, Upcoming
from groundup.recipe import Recipe
from groundup.training import LiveSchedule, SampleOrder, World
from groundup.training.loop import parts

Policy = Sequence[Operation]


def cuts_at_load(recipe: Recipe) -> bool:
    """Whether any training image of this recipe is cut while it is decoded. Then data.cache=none changes the run."""
    later = [phase.set.policy for phase in recipe.phases if phase.set.policy is not None]
    return recipe.data.cache == "none" and any(_first_cut(policy) for policy in (recipe.augment.policy, *later))


def _first_cut(policy: Policy) -> RandomResizedCrop | None:
    return policy[0] if policy and isinstance(policy[0], RandomResizedCrop) else None


def without_cuts(live: LiveSchedule) -> LiveSchedule:
    """What is left for the device."""

    def rest(policy: Policy) -> tuple[Operation, ...]:
        return tuple(policy[1:] if _first_cut(policy) else policy)

    changes = tuple(
        (step, {key: rest(value) if key == "policy" else value for key, value in change.items()})  # type: ignore[arg-type]
        for step, change in live.changes
    )
    return LiveSchedule(replace(live.base, policy=rest(live.base.policy)), changes)


def decodes_batches(recipe: Recipe, splits: Splits) -> bool:
    """Whether the training images are decoded from their source batch by batch."""
    return recipe.data.cache == "none" and isinstance(splits.train.images, SourceImages)


def training_loader(
    recipe: Recipe,
    splits: Splits,
    order: SampleOrder,
    live: LiveSchedule,
    total_steps: int,
    device: torch.device,
    world: World | None = None,
) -> MemoryLoader:
    """The loader of the training split: one that decodes ahead where images are decoded at all. `live`: with its cuts; `world`: the
    processes that train together, each of which decodes its share of a batch."""
    if not decodes_batches(recipe, splits):
        return MemoryLoader(splits.train, device, recipe.data.cache)
    return DecodingLoader(
        splits.train,
        device,
        _upcoming(recipe, splits.image_size, order, live, world or World()),
        total_steps=total_steps,
        workers=recipe.data.workers,
        ahead=recipe.data.prefetch,
        again=recipe.optimizer.sam is not None,
    )


def _upcoming(
    recipe: Recipe, image_size: int, order: SampleOrder, live: LiveSchedule, world: World
) -> Callable[[int], Upcoming]:
    def at(step: int) -> Upcoming:
        epoch, indices = order.at(step)
        values = live.at(step)
        shares = parts(len(indices), recipe.train.micro_batch, world.share(len(indices)))
        whole = (mix_groups(part, len(indices)) if values.mix.active else part for part in shares)
        batches = tuple(indices[part].numpy() for part in whole)
        crop = _first_cut(values.policy)
        if crop is None:
            return Upcoming(epoch, image_size, batches)
        windows = partial(_windows, crop, recipe.seed)
        return Upcoming(epoch, values.resolution, batches, windows, crop.interpolation)

    return at


def _windows(
    crop: RandomResizedCrop, seed: int, sizes: torch.Tensor, indices: torch.Tensor, epoch: int
) -> torch.Tensor:
    return crop.windows(sizes, indices, epoch, seed)
