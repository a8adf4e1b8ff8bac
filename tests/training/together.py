"""Runs of some steps that one or several processes make together; `test_distributed.py` compares their outcomes.

As a script, `together.py FOLDER`, it makes every run of `RUNS` with the processes that the environment names, and saves them in
FOLDER. `together.py FOLDER stop` begins `ELASTIC` there and stops, `together.py FOLDER resume` goes on with it; `together.py FOLDER
silent` begins `ELASTIC` with images that are decoded as they are needed, which the last process gets no more at a later step.
Imported, `outcome` makes a run in this process alone.
"""

import importlib.util
import itertools
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.basis.interruption import Interrupted, StopRequest
from groundup.data import SourceImages
from groundup.runs.prepare import SharedSplit, build_job, build_network, make_plan
from groundup.tracking import MetricsFile, Trackers
from groundup.tracking.jsonl import read as read_metrics
from groundup.training import World, choose_engine, load_checkpoint, together, train

# 144 images for training and 36 for validation. With three processes nothing divides evenly.
_MIX = {"methods": [{"name": "cutmix"}, {"name": "mixup", "alpha": 0.4}], "per": "sample"}
RUNS: dict[str, dict[str, Any]] = {
    # The last batch of an epoch has one image: two of three processes have nothing to do.
    "odd batches": {
        "train": {"batch_size": 13, "drop_last": False, "epochs": 2, "clip_norm": 1.0},
        "augment": {"policy": [{"name": "pad_crop", "pad": 1}, {"name": "flip"}]},
        "evaluate": {"batch_size": 5},
    },
    "mixing and accumulation": {
        "data": {"cache": "none"},
        "train": {"batch_size": 140, "micro_batch": 64, "epochs": 6},
        "mix": _MIX,
        "loss": {"name": "cross_entropy", "label_smoothing": 0.1, "class_weights": "balanced"},
        "average": {"name": "ema", "horizon": "3step"},
    },
    "sam and small parts": {
        "train": {"batch_size": 50, "micro_batch": 7, "epochs": 2},
        "optimizer": {"name": "adamw", "sam": {"rho": 0.05}},
        "schedule": {"name": "one_cycle", "max_lr": 0.002},
        "average": {"name": "swa", "start": "0.3dur", "every": "1step"},
    },
}
# 12 steps, stopped after the sixth for others to go on with.
ELASTIC = {
    "train": {"batch_size": 13, "drop_last": False, "epochs": 1, "clip_norm": 1.0},
    "augment": {"policy": [{"name": "pad_crop", "pad": 1}, {"name": "flip"}]},
    "mix": _MIX,
    "average": {"name": "ema", "horizon": "3step"},
}


class WithoutNorm(nn.Module):
    """A small network without batch norm, with a parameter that is never used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.last = nn.Linear(16, 10)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.second(torch.relu(self.first(x)))))
        result: Tensor = self.last(x.mean((2, 3)))
        return result


class AfterChecks(StopRequest):
    """Asks to stop at a check of its own."""

    def __init__(self, checks: int | None) -> None:
        super().__init__()
        self._left = checks or 0

    @property
    def pending(self) -> Interrupted | None:
        self._left -= 1
        return Interrupted("SIGTERM", 143) if self._left < 0 else None


def fall_silent(stop: StopRequest, reads: int) -> threading.Event:
    """From the read of training images number `reads` on, counted from 0, the source does not answer until the event that is
    returned is set; then the process is told to stop."""
    answers, asked, encoded = threading.Event(), itertools.count(), SourceImages.encoded

    def read(source: SourceImages, positions: Any) -> Any:
        if threading.current_thread().name.startswith("groundup-read") and next(asked) >= reads:
            stop.request("the machine goes")
            assert answers.wait(30), "the run waited for the source"
        return encoded(source, positions)

    SourceImages.encoded = read  # type: ignore[method-assign]
    return answers


def laboratory() -> Any:
    """The laboratory of this folder's conftest."""
    spec = importlib.util.spec_from_file_location("laboratory", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["laboratory"] = module
    spec.loader.exec_module(module)
    return module.Lab()


def outcome(
    lab: Any,
    changes: Mapping[str, Any],
    world: World,
    folder: Path,
    *,
    own: bool = True,
    stop_after: int | None = None,
    silent_after: int | None = None,
) -> dict[str, Any]:
    """Train in `folder` from its newest checkpoint, with the network above or the recipe's, and say what came out."""
    recipe = lab.recipe(changes)
    plan = make_plan(recipe, lab.splits(recipe))
    engine = choose_engine(recipe.train, plan.clock.total_steps, world)
    engine.activate()
    is_last = world.rank == world.size - 1
    asked = AfterChecks(stop_after) if stop_after is not None and is_last else StopRequest()
    answers = fall_silent(asked, silent_after) if silent_after is not None and is_last else None
    agreed = world.stop(asked)
    network = build_network(plan, engine, WithoutNorm() if own else None)
    job, state = build_job(plan, engine, network, agreed.check, world)
    store = lab.store(folder)
    checkpoint = store.newest_whole(print) if world.is_main else None
    if checkpoint:
        load_checkpoint(checkpoint, state)
    world.share_state(state)
    metrics = MetricsFile(folder / "metrics.jsonl")
    trackers = Trackers([], essential=[metrics] if world.is_main else [])

    stopped = None
    try:
        train(job, state, store, trackers, agreed)
    except Interrupted as interrupted:
        stopped = interrupted.reason
    metrics.close()
    if answers is not None:
        answers.set()
    job.data.close()
    split = plan.splits.validation
    assert split is not None
    few = SharedSplit.of(split.subset(torch.arange(2).numpy()), plan, engine, world)
    logits, labels = map(world.gather, few.logits(state.model, recipe, engine, world.stop(StopRequest()).check))
    average = {} if state.average is None else state.average.network.state_dict()
    same = torch.cat([tensor.double().flatten() for tensor in state.model.state_dict().values()])
    everywhere = world.sum(same.clone()) / world.size
    return {
        "weights": state.model.state_dict(),
        "average": average,
        "numbers": {k: v for k, v in state.to_dict()["numbers"].items() if k != "seconds"},
        "metrics": [
            {k: v for k, v in line.items() if k not in ("seconds", "images_per_second")}
            for line in (read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else [])
        ],
        "two images": (logits, labels),
        "the same everywhere": bool(world.sum((everywhere - same).abs().max()) < 1e-12),
        "stopped": stopped,
    }


def part(folder: Path, what: str) -> None:
    """Begin the run `ELASTIC` in `folder` and stop it, or go on with it."""
    changes = {**ELASTIC, "data": {"cache": "none", "workers": 1, "prefetch": 0}} if what == "silent" else ELASTIC
    stop_after, silent_after = 5 if what == "stop" else None, 5 if what == "silent" else None
    lab = laboratory()
    with together() as world:
        world.start(torch.device("cpu"), 60)
        place = folder if world.is_main else folder / f"rank {world.rank}"
        result = outcome(lab, changes, world, place, stop_after=stop_after, silent_after=silent_after)
        if world.is_main:
            torch.save(result, folder / "part.pt")


def main(folder: Path) -> None:
    """Every run, and one that is stopped and resumed."""
    lab = laboratory()
    with together() as world:
        world.start(torch.device("cpu"), 60)
        for name, changes in RUNS.items():
            with tempfile.TemporaryDirectory() as place:
                result = outcome(lab, changes, world, Path(place))
            if world.is_main:
                torch.save(result, folder / f"{name}.pt")
        place = folder / f"stopped by {world.rank}"
        batch_norm = {"train": {"batch_size": 13, "epochs": 1}, "checkpoint": {"every": "100step"}}
        parts = {
            "stopped": outcome(lab, batch_norm, world, place, own=False, stop_after=3),
            "resumed": outcome(lab, batch_norm, world, place, own=False),
            "uninterrupted": outcome(lab, batch_norm, world, folder / f"whole of {world.rank}", own=False),
        }
        if world.is_main:
            torch.save(parts, folder / "parts.pt")


if __name__ == "__main__":
    if sys.argv[2:]:
        part(Path(sys.argv[1]), sys.argv[2])
    else:
        main(Path(sys.argv[1]))
