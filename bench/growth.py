"""How the cost of training grows: with images, classes, batch, processes and epochs. Numbers and a picture.

    python bench/growth.py [--rounds 5] [--out bench/results/growth.json] [--picture docs/pictures/growth.png]

Generated images of 32 px (their content does not matter here), a small ResNet-18. Training steps of all settings of a row are timed
in turn in one process, in another order in every round; each turn begins an epoch, whose order is drawn in it. The figure is the
median of a round's time per image over that of the row's first setting. Processes: whole runs under torchrun with the same global
batch, by the seconds and images of their own summaries; they share the cores of this machine, so 1 means that nothing is lost by
dividing. Memory is that of a real run of many epochs, read after each of them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from generated import noise
from kept import keep

import groundup
from groundup.basis.interruption import StopRequest
from groundup.basis.pictures import PALETTE, new_figure, save_figure
from groundup.recipe import load_recipe
from groundup.runs.folder import environment
from groundup.runs.prepare import first_job, make_plan, with_measured_constants
from groundup.tracking import Tracker
from groundup.tracking.base import Record
from groundup.training import train_step

SMALL = ["model={name: resnet18, width: 8, stem: small}", "phases=[]", "track.tensorboard=false"]
ROWS: dict[str, list[dict[str, int]]] = {
    "images": [{"images": count} for count in (5_000, 10_000, 20_000, 50_000)],
    "classes": [{"classes": count} for count in (100, 300, 1000)],
    "batch": [{"batch": count} for count in (64, 128, 256, 512, 1024, 2048, 4096)],
}
IMAGES_OF_A_TURN = 4096


def turns(images: int = 8192, classes: int = 100, batch: int = 512) -> Callable[[int], float]:
    """Gives the seconds per image of turn number `epoch`, the first steps of that epoch."""
    recipe = load_recipe(
        "cifar100-resnet18", [*SMALL, f"train.batch_size={batch}", "train.epochs=1000", "train.drop_last=true"]
    )
    splits = noise(images, classes)
    plan = make_plan(with_measured_constants(recipe, splits), splits)
    job, state = first_job(plan, StopRequest().check)
    steps = max(1, min(IMAGES_OF_A_TURN, images) // batch)

    def turn(epoch: int) -> float:
        state.step = epoch * plan.order.steps_per_epoch
        job.engine.synchronize()
        started = time.perf_counter()
        for _ in range(steps):
            train_step(job, state)
        job.engine.synchronize()
        return (time.perf_counter() - started) / (steps * batch)

    return turn


def row(settings: list[dict[str, int]], rounds: int) -> list[dict[str, Any]]:
    """Time per image of every setting, relative to the first, round by round."""
    return compared(settings, [turns(**setting) for setting in settings], rounds)


def processes_row(most: int, rounds: int) -> list[dict[str, Any]]:
    """The same for one to `most` processes."""
    settings = [{"processes": count} for count in range(1, most + 1)]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        splits = noise(2 * IMAGES_OF_A_TURN, 100)
        assert splits.test is not None
        arrays: dict[str, Any] = {}
        for name, part in (("train", splits.train), ("test", splits.test)):
            arrays |= {f"x_{name}": part.read(slice(None)).numpy(), f"y_{name}": part.labels}
        np.savez(place / "noise.npz", **arrays)
        return compared(settings, [runs(place, **setting) for setting in settings], rounds)


def runs(folder: Path, processes: int) -> Callable[[int], float]:
    """Gives the seconds per image of a run of one epoch in that many processes."""

    def run(round_: int) -> float:
        place = folder / f"run-{processes}-{round_}"
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "groundup"]
        chosen = [
            *SMALL,
            f"data.source=arrays:{folder}/noise.npz",
            "train.batch_size=512",
            "train.epochs=1",
            "schedule={name: constant, lr: 0.01}",
        ]
        command = [sys.executable, "-m", *torchrun, "train", "cifar100-resnet18", *chosen, "--run-folder", str(place)]
        environment = {**os.environ, "GROUNDUP_CACHE": str(folder / "cache")}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        summary = json.loads((place / "summary.json").read_text())
        return 1 / float(summary["images_per_second"])

    return run


def compared(settings: list[dict[str, int]], turns: list[Callable[[int], float]], rounds: int) -> list[dict[str, Any]]:
    """Every setting with its seconds per image, taken in turn in another order in every round."""
    for turn in turns:
        turn(0)  # warm-up
    per_image: list[list[float]] = [[] for _ in turns]
    for round_ in range(1, rounds + 1):
        first = round_ % len(turns)
        for place in [*range(first, len(turns)), *range(first)]:
            per_image[place].append(turns[place](round_))
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

    def evaluation(self, record: Record) -> None:
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
        groundup.train(recipe, run=Path(folder) / "run", data=noise(500, 10), terminal=watch, pictures=False)
    return watch.seen


def draw(result: dict[str, Any], path: Path) -> None:
    figure = new_figure(11, 2.6)
    panels = figure.subplots(1, len(ROWS) + 2)
    for panel, name in zip(panels, [*ROWS, "processes"], strict=False):
        points = result[name]
        places = [point[name] for point in points]
        middle = [point["relative_time_per_image"] for point in points]
        below = [value - point["lowest"] for value, point in zip(middle, points, strict=True)]
        above = [point["highest"] - value for value, point in zip(middle, points, strict=True)]
        panel.errorbar(places, middle, yerr=[below, above], marker="o", color=PALETTE["blue"], capsize=2)
        panel.set_xscale("log")
        panel.set_ylim(0, max(1.6, 1.1 * max(point["highest"] for point in points)))
        panel.set_title(f"time per image against {name}", fontsize=8)
        panel.set_xticks(places, [f"{place:,}" for place in places], fontsize=6, rotation=45)
        panel.minorticks_off()
    resident = [value / 1e9 for value in result["memory_bytes_after_epochs"]]
    panels[-1].plot(resident, color=PALETTE["blue"])
    panels[-1].set_ylim(0, 1.3 * max(resident))
    panels[-1].set_title("resident GB against epochs", fontsize=8)
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
    alone = torch.cuda.is_available() and torch.cuda.device_count() < 2
    result["processes"] = processes_row(1 if alone else 2, chosen.rounds)
    result["memory_bytes_after_epochs"] = memory(chosen.epochs)
    result |= environment()
    keep(result, chosen.out)
    if chosen.picture:
        draw(result, chosen.picture)


if __name__ == "__main__":
    main()
