"""A laboratory for the loop: tiny recipes on the embedded digits, run from the start or from their last checkpoint."""

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from groundup.basis.interruption import Interrupted, StopRequest
from groundup.data import Splits
from groundup.recipe import Recipe, validate
from groundup.runs.prepare import first_job, make_plan, open_data, with_measured_constants
from groundup.tracking import MetricsFile, Tracker, Trackers
from groundup.tracking.jsonl import read as read_metrics
from groundup.training import CheckpointStore, Job, TrainingState, load_checkpoint, train

# 144 images in batches of 32: 4 steps an epoch, 10 steps; 5 steps an epoch with the short last batch.
BASE: dict[str, Any] = {
    "name": "tiny",
    "data": {"source": "digits", "limit": 180, "validation": 0.2},
    "model": {"name": "resnet18", "stem": "small", "width": 8},
    "augment": {"policy": [{"name": "pad_crop", "pad": 1}]},
    "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4},
    "schedule": {"name": "one_cycle", "max_lr": 0.05},
    "train": {
        "epochs": 2.5,
        "batch_size": 32,
        "device": "cpu",
        "threads": 1,
        "precision": "fp32",
        "compile": "never",
    },
    "track": {"tensorboard": False, "step_every": 1},
}
# What a clock measured is not repeated by a resume.
TIMES = ("seconds", "images_per_second")


class StopAfter(StopRequest):
    """Asks to stop before step number `steps` of this part of the run."""

    def __init__(self, steps: int | None) -> None:
        super().__init__()
        self._left = math.inf if steps is None else steps

    @property
    def pending(self) -> Interrupted | None:
        return Interrupted("SIGTERM", 143) if self._left < 0 else None

    def check(self) -> None:
        self._left -= 1
        super().check()


class Losses(Tracker):
    """Keeps what the loop reports of its steps."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def step(self, record: Mapping[str, Any]) -> None:
        self.records.append(dict(record))


@dataclass
class Part:
    """A run, or a part of one: what the loop was given, and what it left."""

    job: Job
    state: TrainingState
    folder: Path
    steps: list[dict[str, Any]]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """metrics.jsonl, without times."""
        return [
            {key: value for key, value in line.items() if key not in TIMES}
            for line in read_metrics(self.folder / "metrics.jsonl")
        ]

    def _on_disk(self) -> dict[str, Any]:
        """What a later run would load, which need not be what this one has in memory."""
        last = self.folder / "checkpoints" / "last"
        return {file.name: load_file(file) for file in sorted(last.glob("*.safetensors"))}

    @property
    def outcome(self) -> dict[str, Any]:
        """Everything that a resume has to repeat bit for bit."""
        saved = self.state.to_dict()
        numbers = {key: value for key, value in saved["numbers"].items() if key not in TIMES}
        average = {} if self.state.average is None else self.state.average.network.state_dict()
        weights = {"weights": self.state.model.state_dict(), "averaged weights": average, "on disk": self._on_disk()}
        return deepcopy({**weights, **saved, "numbers": numbers, "metrics": self.lines})


def _laid_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        old = base.get(key)
        same_method = isinstance(old, dict) and isinstance(value, dict) and value.get("name", 0) in (0, old.get("name"))
        result[key] = _laid_over(old, value) if same_method else value  # type: ignore[arg-type]
    return result


class Lab:
    """Builds and runs tiny recipes. `changes` are laid over BASE, section by section; another name replaces a section."""

    def __init__(self) -> None:
        self._splits: dict[str, Splits] = {}

    def recipe(self, changes: Mapping[str, Any] | None = None) -> Recipe:
        recipe = validate(_laid_over(BASE, changes or {}))
        return with_measured_constants(recipe, self.splits(recipe))

    def splits(self, recipe: Recipe) -> Splits:
        key = recipe.data.model_dump_json()
        if key not in self._splits:
            self._splits[key] = open_data(recipe, StopRequest())
        return self._splits[key]

    def build(
        self,
        changes: Mapping[str, Any] | None = None,
        *,
        own: nn.Module | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> tuple[Job, TrainingState]:
        """The job and its state before the first step; `own`: a network in place of the recipe's."""
        recipe = self.recipe(changes)
        plan = make_plan(recipe, self.splits(recipe))
        return first_job(plan, check, own)

    def no_stop(self) -> StopRequest:
        return StopRequest()

    def store(self, folder: Path, keep: int = 2, keep_every: int | None = None) -> CheckpointStore:
        return CheckpointStore(folder / "checkpoints", keep, keep_every)

    def run(
        self,
        folder: Path,
        changes: Mapping[str, Any] | None = None,
        *,
        stop_after: int | None = None,
        stop_in_evaluation: int | None = None,
        own: nn.Module | None = None,
        trackers: tuple[Tracker, ...] = (),
    ) -> Part:
        """Go on in `folder` from its newest whole checkpoint, with everything built anew, to the end or until stopped.

        `stop_after`: steps of this part; `stop_in_evaluation`: the number of the evaluation, from 0, that is interrupted.
        """
        torch.manual_seed(torch.seed())  # no state of the process is allowed to matter
        job, state = self.build(changes, own=own, check=self._evaluations_until(stop_in_evaluation))
        keep_every = job.checkpoint.keep_every
        store = self.store(folder, job.checkpoint.keep, None if keep_every is None else job.clock.steps(keep_every))
        if checkpoint := store.newest_whole(pytest.fail):
            load_checkpoint(checkpoint, state)
        metrics, losses = MetricsFile(folder / "metrics.jsonl"), Losses()
        metrics.cut_back(state.evaluated_at)
        part = Part(job, state, folder, losses.records)
        try:
            train(job, state, store, Trackers([metrics, losses, *trackers], report=pytest.fail), StopAfter(stop_after))
        except Interrupted:
            assert stop_after is not None or stop_in_evaluation is not None
        finally:
            metrics.close()
            job.data.close()
        return part

    def _evaluations_until(self, number: int | None) -> Callable[[], None]:
        seen = -1

        def check() -> None:
            nonlocal seen
            seen += 1
            if seen == number:
                raise Interrupted("SIGTERM", 143)

        return check


def _differences(a: Any, b: Any, key: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for k in a for found in _differences(a[k], b[k], f"{key}.{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [found for i in range(len(a)) for found in _differences(a[i], b[i], f"{key}.{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [key]
    return [] if type(a) is type(b) and a == b else [f"{key}: {a!r} and {b!r}"]


@pytest.fixture(scope="session")
def differences() -> Callable[[Any, Any], list[str]]:
    """differences(a, b): where two nested values differ by a bit or more."""
    return _differences


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The laboratory. It decodes its digits into the cache of the test session, once."""
    return Lab()
