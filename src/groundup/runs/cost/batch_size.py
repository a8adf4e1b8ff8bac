"""`train.batch_size: auto`: the largest batch that fits, found once before the first step.

Sizes    powers of two up to 64, then multiples of 64 (which mixing in micro-batches needs); at most a tenth of the training split,
         so that an epoch has ten steps, and at most `CEILING`: larger batches seldom learn as well for the same images.
CUDA     real steps at the largest input size, by bisection between a size that fits and one that runs out of memory.
Else     one pass of a few images is measured, and the rest is multiplied up: what the backward pass keeps of an image, beside what
         is there whatever the batch. A CPU that is out of memory swaps or is killed, so it is not tried out.
Room     a share of the memory stays free, for evaluation, for other programs, and because the estimate is low on a CPU.

The number takes the place of `auto` in the recipe of the run, so that a resume and a run of that recipe elsewhere make the same
steps. The same recipe with `auto` may give another number on another machine, or when less memory is free.
"""

import copy
import gc
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from groundup.basis.errors import OutOfMemory, UsageError
from groundup.basis.machine import out_of_memory, used_memory
from groundup.data import Splits
from groundup.preflight import readable_bytes
from groundup.recipe import Recipe
from groundup.runs.cost.estimate import device_memory, extrapolated_memory
from groundup.runs.cost.measure import PROBED, at_rest, first_steps, step_bytes
from groundup.runs.prepare import build_job, build_network, make_plan
from groundup.training import Job, TrainingState, choose_engine, train_step

CEILING = 1024
_TRIED_SHARE = 0.85  # of the memory that steps which were made may have used
# What may be used by the estimate. ResNet-18 on a CPU, 96 images of 32 px: 1,346 MB at the peak where 990 were estimated, and
# 1.6 times the estimate for the images alone.
_MEASURED_SHARE = 0.5
_ENOUGH_STEPS = 10  # of an epoch, at least
_POWERS = 64  # up to here powers of two, from here multiples of it


def with_batch_size(
    recipe: Recipe,
    splits: Splits,
    tell: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
    own: nn.Module | None = None,
) -> Recipe:
    """The recipe with a number in place of `auto`, which `tell` is told in a line; a recipe with a number as it is.

    `own`: a network in place of the recipe's, which is not touched. UsageError or OutOfMemory if no batch can be had.
    """
    if not recipe.train.finds_batch_size:
        return recipe
    sizes = candidates(len(splits.train))
    search = _Search(recipe, splits, check, own)
    device = choose_engine(recipe.train, 1).torch_device
    found, how = search.by_trying(sizes) if device.type == "cuda" else search.by_measuring(sizes)
    if recipe.train.micro_batch is not None and recipe.train.micro_batch > found:
        raise UsageError(
            f"train.micro_batch={recipe.train.micro_batch}: larger than the batch of {found} that train.batch_size=auto finds",
            hint="leave train.micro_batch out: auto finds a batch that fits in one pass",
        )
    tell(f"train.batch_size=auto: {found} images{_limit(found, sizes, len(splits.train))}; {how}")
    return with_number(recipe, found)


def with_number(recipe: Recipe, batch_size: int) -> Recipe:
    """The recipe with that batch."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"batch_size": batch_size})})


def candidates(train_images: int) -> list[int]:
    """The sizes that are considered, ascending; never empty."""
    most = max(1, min(CEILING, train_images // _ENOUGH_STEPS))
    powers = [2**power for power in range(_POWERS.bit_length()) if 2**power <= most]
    return [*powers, *range(2 * _POWERS, most + 1, _POWERS)]


def _limit(found: int, sizes: list[int], train_images: int) -> str:
    """Why it is not more, where that is not the memory."""
    if found != sizes[-1]:
        return ""
    split = f"at most a tenth of the {train_images:,} training images"
    return f" ({split if train_images // _ENOUGH_STEPS < CEILING else f'the most that auto takes is {CEILING}'})"


class _Search:
    """Looks for the largest size. `recipe` says `auto`; `own`: a network in place of the recipe's."""

    def __init__(self, recipe: Recipe, splits: Splits, check: Callable[[], None], own: nn.Module | None) -> None:
        self._recipe, self._splits, self._check, self._own = recipe, splits, check, own

    def by_measuring(self, sizes: list[int]) -> tuple[int, str]:
        """The largest size by what a few images take, and how it was found."""
        program = used_memory()
        # Of a small batch: many steps, so that every duration fits in.
        recipe = with_number(self._recipe, min(PROBED, sizes[-1]))
        whole = recipe.model_copy(update={"train": recipe.train.model_copy(update={"micro_batch": None})})
        plan = make_plan(whole, self._splits)
        engine = replace(choose_engine(whole.train, plan.clock.total_steps), compiled=False)
        engine.activate()
        job, state = build_job(plan, engine, build_network(plan, engine, copy.deepcopy(self._own)), self._check)
        try:
            per_image, optimizer_bytes = step_bytes(job, state)
        finally:
            job.data.close()
        memory = extrapolated_memory(plan, job, state, per_image, optimizer_bytes, program)
        room = _MEASURED_SHARE * memory.free - sum(memory.fixed.values())
        most = int(room // memory.per_image) if room > 0 else 0  # images in a forward pass
        micro = self._recipe.train.micro_batch
        fitting = [size for size in sizes if min(size, micro or size) <= most]
        if not fitting:
            raise OutOfMemory(
                f"train.batch_size=auto: not one image fits: a step needs {readable_bytes(sum(memory.fixed.values()))} and "
                f"{readable_bytes(memory.per_image)} for each image; {readable_bytes(memory.free)} are free"
            )
        return fitting[-1], (
            f"measured: {readable_bytes(memory.per_image)} for each image in a forward pass, "
            f"{readable_bytes(sum(memory.fixed.values()))} besides; {readable_bytes(memory.free)} are free"
        )

    def by_trying(self, sizes: list[int]) -> tuple[int, str]:
        """The largest size that a real step of fits in, and how it was found."""
        fits, too_large = -1, len(sizes)  # places in `sizes`
        tried = len(sizes) - 1
        while too_large - fits > 1:
            self._check()
            if self._passes(sizes[tried]):
                fits = tried
            else:
                too_large = tried
            gc.collect()
            torch.cuda.empty_cache()
            tried = (fits + too_large) // 2
        if fits < 0:
            raise OutOfMemory("train.batch_size=auto: not one image fits on the device")
        refused = f", {sizes[too_large]} do not fit" if too_large < len(sizes) else ""
        return sizes[fits], f"tried out on the device{refused}"

    def _passes(self, size: int) -> bool:
        """Whether steps of `size` images fit and leave room. Everything that they took is let go on return."""
        recipe = with_number(self._recipe, size)
        if recipe.train.micro_batch is not None and recipe.train.micro_batch > size:
            return True
        plan = make_plan(recipe, self._splits)
        engine = replace(choose_engine(recipe.train, plan.clock.total_steps), compiled=False)
        engine.activate()
        device = engine.torch_device
        torch.cuda.reset_peak_memory_stats(device)
        free, _ = device_memory(device)
        try:
            job, state = build_job(plan, engine, build_network(plan, engine, copy.deepcopy(self._own)), self._check)
            try:
                _two_steps(job, state)
            finally:
                job.data.close()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return False
        return torch.cuda.max_memory_reserved(device) <= _TRIED_SHARE * free


def _two_steps(job: Job, state: TrainingState) -> None:
    """At the largest input size. The second finds what the first has left: the optimizer's memory."""
    quiet = at_rest(job)
    state.model.train()
    for _ in range(2):
        state.step = first_steps(job)[max(job.flops)]
        train_step(quiet, state)
    job.engine.synchronize()
