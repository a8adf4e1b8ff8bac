"""What an operation of its own for every image costs: TrivialAugment Wide against one operation for the whole batch.

Both use the same kernels on the same images, real-looking colours with noise. The batch-wide contestant draws one operation and
one magnitude for all images, as libraries do that take a batch as one image; over a round it does each of the 14 operations once,
and ours does as many batches. They take turns in one process, each first in every other round, and the ratio is taken round
by round. Measured is the CPU time of the process, drawing included, with one thread.

`ratio` is of user time, the work itself. System time stands beside it: the batch-wide contestant's larger buffers cost page faults
where the allocator hands them back to the system, which differs from process to process (1 to 5 ms per batch were seen), so
that `ratio_with_system` moves between runs and says more about the allocator than about either way to augment.

    python bench/trivial_augment.py [--rounds 60] [--batch 512] [--size 32] [--out bench/results/trivial_augment.json]
"""

import argparse
import functools
import resource
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from generated import pictures
from kept import keep
from torch import Tensor

from groundup.augment import Batch
from groundup.augment.geometry import affine_matrix, warp
from groundup.augment.space import COLOUR, GEOMETRIC
from groundup.augment.trivial_augment_wide import WIDE, TrivialAugmentWide
from groundup.basis.seeding import generator
from groundup.runs.folder import environment

BINS = 31


def for_the_whole_batch(images: Tensor, name: str, random: torch.Generator) -> Tensor:
    """Operation `name` at one magnitude and sign for all of `images`."""
    scale = next(scale for scale in WIDE if scale.name == name)
    value = scale.magnitudes(BINS)[torch.randint(BINS, (), generator=random)]
    if scale.signed and torch.rand((), generator=random) < 0.5:
        value = -value
    if name == "Identity":
        return images
    if name in COLOUR:
        return COLOUR[name](images, value.expand(len(images)))
    zero, value = torch.zeros(1), value.view(1)
    matrix = {
        "ShearX": lambda: affine_matrix(images.shape[-1], shear=(value, zero)),
        "ShearY": lambda: affine_matrix(images.shape[-1], shear=(zero, value)),
        "TranslateX": lambda: affine_matrix(images.shape[-1], translate=(value, zero)),
        "TranslateY": lambda: affine_matrix(images.shape[-1], translate=(zero, value)),
        "Rotate": lambda: affine_matrix(images.shape[-1], angle=value),
    }[name]()
    fill = images.new_zeros((len(images), 3))
    return warp(images, matrix.expand(len(images), 2, 3), interpolation="nearest", fill=fill)


class Cost(NamedTuple):
    """CPU time of the process in ms per batch."""

    user: float
    system: float


def cost(call: Callable[[], None], batches: int) -> Cost:
    before = resource.getrusage(resource.RUSAGE_SELF)
    call()
    after = resource.getrusage(resource.RUSAGE_SELF)
    scale = 1e3 / batches
    return Cost((after.ru_utime - before.ru_utime) * scale, (after.ru_stime - before.ru_stime) * scale)


def medians(costs: list[Cost]) -> dict[str, float]:
    return {
        "user": statistics.median(each.user for each in costs),
        "system": statistics.median(each.system for each in costs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    images = pictures(chosen.batch, chosen.size)
    batch = Batch(torch.arange(chosen.batch), 0, 0, chosen.size, (0.5, 0.5, 0.5), torch.device("cpu"))
    ours = TrivialAugmentWide(name="trivial_augment_wide")
    names = [scale.name for scale in WIDE]
    assert set(names) <= {"Identity", *GEOMETRIC, *COLOUR}

    def each_its_own(round_: int) -> None:
        for turn in range(len(names)):
            ours.apply(images, ours.draw(batch, generator(round_, turn)))

    def all_the_same(round_: int) -> None:
        for turn, name in enumerate(names):
            for_the_whole_batch(images, name, generator(round_, turn))

    pairs = []
    for round_ in range(chosen.rounds + 1):
        taken = {}
        turns = (all_the_same, each_its_own) if round_ % 2 else (each_its_own, all_the_same)  # neither is always first
        for contestant in turns:
            taken[contestant] = cost(functools.partial(contestant, round_), len(names))
        pairs.append((taken[all_the_same], taken[each_its_own]))
    pairs = pairs[1:]  # the first round warms up
    ratios = [own.user / same.user for same, own in pairs]
    result = {
        "what": "user CPU time of TrivialAugment Wide, an operation for every image, over that of one operation per batch",
        "ratio_median": statistics.median(ratios),
        "ratio_quarter": statistics.quantiles(ratios, n=4)[0],
        "ratio_three_quarters": statistics.quantiles(ratios, n=4)[2],
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "ratio_with_system_median": statistics.median(sum(own) / sum(same) for same, own in pairs),
        "milliseconds_per_batch": medians([own for _, own in pairs]),
        "milliseconds_per_batch_one_operation": medians([same for same, _ in pairs]),
        "batch": chosen.batch,
        "size": chosen.size,
        "threads": torch.get_num_threads(),
        "rounds": len(pairs),
        "batches_per_round": len(names),
        **environment(),
    }
    keep(result, chosen.out)


if __name__ == "__main__":
    main()
