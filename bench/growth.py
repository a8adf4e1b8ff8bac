"""How the cost of training grows: with the number of images, the classes, the batch and the epochs. Numbers and a picture.

    python bench/growth.py [--rounds 5] [--out bench/results/growth.json] [--picture docs/pictures/growth.png]

Generated images of 32 px (their content does not matter here), a small ResNet-18. Training steps of all settings of a row are timed
in turn in one process, and the figure is the median of a round's time per image over that of the row's first setting. Memory is
that of a real run of many epochs, read after each of them.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from kept import keep

import groundup
from groundup.basis.interruption import StopRequest
from groundup.basis.pictures import PALETTE, new_figure, save_figure
from groundup.data import ImageSet, Splits
from groundup.recipe import load_recipe
from groundup.runs.folder import environment
from groundup.runs.prepare import first_job, make_plan, with_measured_constants
from groundup.tracking import Tracker
from groundup.training import train_step

SMALL = ["model={name: resnet18, width: 8, stem: small}", "phases=[]", "track.tensorboard=false"]
ROWS: dict[str, list[dict[str, int]]] = {
    "images": [{"images": count} for count in (5_000, 10_000, 20_000, 50_000)],
    "classes": [{"classes": count} for count in (100, 300, 1000)],
    "batch": [{"batch": count} for count in (64, 128, 256, 512, 1024, 2048, 4096)],
}


def generated(images: int, classes: int) -> Splits:
    """Noise of 32 px with labels in turn, as a data set of `images` for training and 100 for test."""
    generator = np.random.default_rng(0)

    def part(count: int) -> ImageSet:
        pixels = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        return ImageSet.whole(pixels, np.arange(count) % classes)

    names = [f"class {index}" for index in range(classes)]
    return Splits(part(images), None, part(100), names, 32, f"generated-{images}-{classes}")


def stepper(images: int = 8192, classes: int = 100, batch: int = 512) -> tuple[Callable[[], None], int]:
    """A call that trains one step, and the images it trains."""
    recipe = load_recipe(
        "cifar100-resnet18", [*SMALL, f"train.batch_size={batch}", "train.epochs=1", "train.drop_last=true"]
    )
    splits = generated(images, classes)
    plan = make_plan(with_measured_constants(recipe, splits), splits)
    job, state = first_job(plan, StopRequest().check)

    def step() -> None:
        state.step %= plan.clock.total_steps
        train_step(job, state)
        job.engine.synchronize()

    return step, batch


def row(settings: list[dict[str, int]], rounds: int) -> list[dict[str, Any]]:
    """Time per image of every setting, relative to the first, round by round."""
    prepared = [stepper(**setting) for setting in settings]
    for step, _ in prepared:
        step()
    per_image: list[list[float]] = [[] for _ in prepared]
    for _ in range(rounds):
        for (step, batch), seconds in zip(prepared, per_image, strict=True):
            times = max(1, 4096 // batch)
            started = time.perf_counter()
            for _ in range(times):
                step()
            seconds.append((time.perf_counter() - started) / (times * batch))
    made = []
    for setting, seconds in zip(settings, per_image, strict=True):
        ratios = sorted(now / first for now, first in zip(seconds, per_image[0], strict=True))
        made.append(
            {
                **setting,
                "relative_time_per_image": statistics.median(ratios),
                "lowest": ratios[0],
                "highest": ratios[-1],
                "milliseconds_per_image": 1000 * statistics.median(seconds),
            }
        )
    return made


class MemoryAfterEpochs(Tracker):
    """Notes the resident memory of this process, in bytes, after every evaluation."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def evaluation(self, record: dict[str, Any]) -> None:
        self.seen.append(psutil.Process().memory_info().rss)


def memory(epochs: int) -> list[int]:
    watch = MemoryAfterEpochs()
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            *SMALL,
            "train.batch_size=64",
            f"train.epochs={epochs}",
            "checkpoint.every=10ep",
            "evaluate.every=1ep",
        ]
        recipe = load_recipe("cifar100-resnet18", [*settings, "schedule={name: constant, lr: 0.01}"])
        groundup.train(recipe, run=Path(folder) / "run", data=generated(500, 10), terminal=watch, pictures=False)
    return watch.seen


def draw(result: dict[str, Any], path: Path) -> None:
    figure = new_figure(9, 2.6)
    panels = figure.subplots(1, 4)
    for panel, name in zip(panels, ROWS, strict=False):
        points = result[name]
        places = [point[name] for point in points]
        middle = [point["relative_time_per_image"] for point in points]
        below = [value - point["lowest"] for value, point in zip(middle, points, strict=True)]
        above = [point["highest"] - value for value, point in zip(middle, points, strict=True)]
        panel.errorbar(places, middle, yerr=[below, above], marker="o", color=PALETTE[0], capsize=2)
        panel.set_xscale("log")
        panel.set_ylim(0, max(1.6, 1.1 * max(point["highest"] for point in points)))
        panel.set_title(f"time per image against {name}", fontsize=8)
        panel.set_xticks(places, [f"{place:,}" for place in places], fontsize=6, rotation=45)
        panel.minorticks_off()
    panels[3].plot([value / 1e9 for value in result["memory_bytes_after_epochs"]], color=PALETTE[0])
    panels[3].set_ylim(bottom=0)
    panels[3].set_title("resident GB against epochs", fontsize=8)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    result: dict[str, Any] = {"what": __doc__.splitlines()[0], "network": SMALL[0], "rounds": chosen.rounds}
    for name, settings in ROWS.items():
        result[name] = row(settings, chosen.rounds)
    result["memory_bytes_after_epochs"] = memory(chosen.epochs)
    result |= environment()
    keep(result, chosen.out)
    if chosen.picture:
        draw(result, chosen.picture)


if __name__ == "__main__":
    main()
