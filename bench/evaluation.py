"""What an evaluation costs: the seconds in which groundup scores a split over those of a bare forward loop, in turn.

    python bench/evaluation.py cifar100-speed data.source=parquet:PATH/TO/cifar100 --out bench/results/evaluation.json

Ours is what ends a run: logits of the test split with the weights at hand, in the recipe's batches, and the numbers of its summary.
The bare loop has all normalised images in memory beforehand, in the layout that the network likes, and does nothing but the forward
pass in the same batches. `--images` scores only so many.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from kept import keep

from groundup import augment
from groundup.basis.interruption import StopRequest
from groundup.data import MemoryLoader
from groundup.evaluation import evaluation_mode, headline
from groundup.recipe import load_recipe
from groundup.runs.folder import environment
from groundup.runs.prepare import SharedSplit, constants, first_job, make_plan, open_data, with_measured_constants
from groundup.training import World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--images", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    recipe = load_recipe(chosen.recipe, chosen.overrides)
    splits = open_data(recipe, StopRequest())
    assert splits.test is not None
    count = min(chosen.images or len(splits.test), len(splits.test))
    test = splits.test.subset(np.arange(count))
    splits = replace(splits, test=test)
    recipe = with_measured_constants(recipe, splits)
    plan = make_plan(recipe, splits)
    job, state = first_job(plan, lambda: None)
    engine, model = job.engine, state.model
    loader = MemoryLoader(test, engine.torch_device, recipe.data.cache)
    pixels, _ = loader.take(torch.arange(count, device=engine.torch_device))
    images = augment.normalize(pixels, *constants(recipe), splits.image_size).contiguous(
        memory_format=torch.channels_last
    )

    @torch.no_grad()
    def bare() -> None:
        with evaluation_mode(model), engine.autocast():
            for batch in images.split(recipe.evaluate.batch_size):
                model(batch)
        engine.synchronize()

    def ours() -> None:
        shared = SharedSplit.of(test, plan, engine, World())
        headline(*shared.logits(model, recipe, engine, lambda: None))

    pairs = []
    for round_ in range(chosen.rounds + 1):
        taken = {}
        for turn in (bare, ours) if round_ % 2 else (ours, bare):
            started = time.perf_counter()
            turn()
            taken[turn] = time.perf_counter() - started
        pairs.append((taken[bare], taken[ours]))
    ratios = sorted(ours_ / bare_ for bare_, ours_ in pairs[1:])  # the first round warms up
    result = {
        "recipe": recipe.name,
        "overrides": chosen.overrides,
        "images": count,
        "ratio_median": statistics.median(ratios),
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
        "images_per_second": count / statistics.median(ours_ for _, ours_ in pairs[1:]),
        "rounds": chosen.rounds,
        **environment(engine),
    }
    keep(result, chosen.out)


if __name__ == "__main__":
    main()
