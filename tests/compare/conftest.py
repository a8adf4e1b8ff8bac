"""Sweeps of runs of a second: digits, a tiny network, a few steps."""

import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import groundup

FIXED: dict[str, Any] = {
    "model": {"name": "resnet18", "stem": "small", "width": 8},
    "schedule": {"name": "constant", "lr": 0.05},
    "data.limit": 200,
    "data.validation": 0.25,
    "train": {"epochs": 2, "batch_size": 50, "threads": 1},
    "track.tensorboard": False,
    "checkpoint.every": "1step",
}


def write_arrays(file: Path) -> None:
    """240 images of noise in 4 classes, for `arrays:FILE`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (240, 8, 8, 3), dtype=np.uint8)
    np.savez(file, x_train=noise, y_train=np.arange(240) % 4, x_test=noise[:40], y_test=np.arange(40) % 4)


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROUNDUP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def sweep_file(tmp_path: Path) -> Callable[..., Path]:
    """sweep_file(**changes): the file of a small sweep, with keys changed, or removed by None."""

    def write(**changes: Any) -> Path:
        values = {
            "name": "small",
            "base": "digits",
            "fixed": FIXED,
            "grid": {"schedule.lr": [0.02, 0.05]},
            "seeds": 2,
            **changes,
        }
        path = tmp_path / "sweep-file.yaml"
        path.write_text(
            yaml.safe_dump({key: value for key, value in values.items() if value is not None}, sort_keys=False)
        )
        return path

    return write


# A grid of 2 x 2 with two seeds as a sweep leaves it, for reports.
TINY = [
    "model={name: resnet18, stem: small, width: 8}",
    "schedule={name: one_cycle, max_lr: 0.1}",
    "train={epochs: 2, batch_size: 50, threads: 1}",
    "data.limit=200",
    "data.validation=0.25",
    "track.tensorboard=false",
]
GRID = [(rate, smoothing) for rate in (0.1, 0.0001) for smoothing in (0.0, 0.1)]


@pytest.fixture(scope="session")
def sweep_folder(tmp_path_factory: pytest.TempPathFactory, _cache: None) -> Path:
    """A finished grid of 8 real runs, and one that failed. Read only."""
    folder = tmp_path_factory.mktemp("sweeps") / "tiny-grid"
    entries = []
    for number, (rate, smoothing) in enumerate(GRID):
        for seed in (0, 1):
            name = f"{number:03d}-seed{seed}"
            point = {"schedule.max_lr": rate, "loss.label_smoothing": smoothing}
            overrides = [*(f"{key}={value}" for key, value in point.items()), f"seed={seed}"]
            run = groundup.train("digits", [*TINY, *overrides], run=folder / "runs" / name)
            value = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])["validation_top1"]
            cost = {"pflop": run.summary["pflop"], "seconds": run.summary["seconds"]}
            state = {"state": "done", "reason": None, "value": value}
            entries.append({"name": name, "overrides": point, "seed": seed, **state, **cost})
    failed = {"state": "failed", "reason": "loss is not finite", "value": None, "pflop": None, "seconds": 1.0}
    entries.append({"name": "004-seed0", "overrides": {"schedule.max_lr": 9}, "seed": 0, **failed})
    content = {
        "format": 1,
        "name": "tiny-grid",
        "file": {},
        "metric": "validation_top1",
        "mode": "max",
        "runs": entries,
    }
    (folder / "sweep.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory, _cache: None) -> Path:
    """Three real runs by hand: a first, the same with a hopeless learning rate, and one on the test split. Read only."""
    folder = tmp_path_factory.mktemp("hand") / "runs"
    groundup.train("digits", TINY, run=folder / "first")
    groundup.train("digits", [*TINY, "schedule.max_lr=0.000001"], run=folder / "second")
    optimistic = ["data.validation=0", "evaluate={optimistic: true, model: best}"]
    groundup.train("digits", [*TINY, *optimistic], run=folder / "third")
    return folder


def write_run(
    folder: Path, settings: dict[str, Any], *, top1: float = 0.5, validation: float | None = None, **more: Any
) -> None:
    """A run folder with the files that a report reads. settings: of the recipe; more: of the summary."""
    folder.mkdir(parents=True)
    recipe = {"name": "hand", "seed": 0, "data": {"source": "digits", "split_seed": 0, "validation": 0.1}, **settings}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    line = {"step": 10, "epoch": 1.0, "train_loss": 1.5, "pflop": 0.1, "seconds": 2.0}
    lines = [line, {**line, "step": 20, "epoch": 2.0, "train_loss": 1.0, "pflop": 0.2, "seconds": 4.0}]
    for place, record in enumerate(lines):
        if validation is not None:
            record["validation_top1"] = validation - 0.1 * (1 - place)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    summary = {"seed": recipe["seed"], "steps": 20, "top1": top1, "top1_interval": [top1 - 0.02, top1 + 0.02]}
    facts = {"images": 1000, "reported_on": "test", "optimistic": False, "pflop": 0.2, "seconds": 4.0, "own": {}}
    (folder / "summary.json").write_text(json.dumps({**summary, **facts, **more}))
    (folder / "classifier.json").write_text(json.dumps({"data": more.get("data", "the data")}))


@pytest.fixture
def make_run() -> Callable[..., None]:
    """make_run(folder, settings, ...): see `write_run`."""
    return write_run


@pytest.fixture
def search_folder(tmp_path: Path) -> Path:
    """A search of 24 runs, one seed each, in which the learning rate decides."""
    drawn = random.Random(0)
    entries = []
    for number in range(24):
        rate, smoothing = 10 ** drawn.uniform(-3, 0), drawn.uniform(0, 0.3)
        network = drawn.choice(["speed_net", "resnet18"])
        value = 0.7 - 0.15 * abs(math.log10(rate) + 1.5) + 0.01 * drawn.random()
        name = f"{number:03d}-seed0"
        point = {"schedule.max_lr": rate, "loss.label_smoothing": smoothing, "model.name": network}
        settings = {"schedule": {"max_lr": rate}, "loss": {"label_smoothing": smoothing}, "model": {"name": network}}
        cost = 0.1 * (number % 5 + 1)
        write_run(tmp_path / "search" / "runs" / name, settings, top1=value - 0.01, validation=value, pflop=cost)
        facts = {"state": "done", "reason": None, "value": value, "pflop": cost, "seconds": 4.0}
        entries.append({"name": name, "overrides": point, "seed": 0, **facts})
    pruned = {"state": "pruned", "reason": "below the median at step 10", "value": 0.2, "pflop": 0.1, "seconds": 2.0}
    entries.append({"name": "024-seed0", "overrides": {"schedule.max_lr": 2.0}, "seed": 0, **pruned})
    content = {"format": 1, "name": "search", "file": {}, "metric": "validation_top1", "mode": "max", "runs": entries}
    (tmp_path / "search" / "sweep.json").write_text(json.dumps(content))
    return tmp_path / "search"
