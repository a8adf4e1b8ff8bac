"""Kill -9 while methods are at work: what each of them remembers is in the checkpoint, so the end is that of the run left alone.

Kills come at fixed points of the run: inside of a step cut into parts, while a checkpoint is written, inside of an evaluation.
"""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EPOCH = 6
# 150 training images in steps of 25. Evaluation takes 300 forward passes of one image, twice where weights are averaged.
COMMON = [
    "digits",
    "data.limit=450",
    "data.validation=0.667",
    "evaluate.batch_size=1",
    "model={name: wide_resnet, depth: 10, width: 1, dropout: 0.2}",
    "checkpoint={every: 1step, keep: 3}",
    "track.tensorboard=false",
]
# 5 epochs are asked for. Nothing counts as a gain: the rate falls after epochs 2 and 3, and patience ends the run after epoch 4.
METHODS = [
    *COMMON,
    "train={epochs: 5, batch_size: 25, micro_batch: 10, threads: 1, clip_norm: 1.0}",
    "optimizer={name: sgd, momentum: 0.9, weight_decay: 5.0e-4, sam: {rho: 0.05, every: 2step}}",
    "average={name: ema, horizon: 1ep, every: 2step}",
    "phases=[{from: 13step, set: {augment.policy: [{name: flip}], loss.label_smoothing: 0.0, model.dropout: 0.1}}]",
    "schedule={name: plateau, lr: 0.05, metric: validation_loss, factor: 0.5, patience: 1step, threshold: 1.0e+9, "
    "threshold_mode: abs}",
    "stop={early: {metric: validation_loss, patience: 3ep, min_gain: 1.0e+9}}",
]
SWA = [
    *COMMON,
    "train={epochs: 4, batch_size: 25, threads: 1}",
    "mix={methods: [{name: mixup, alpha: 0.4}, {name: cutmix, alpha: 1.0}], clean: 0.2, per: sample}",
    "schedule={name: cosine_restarts, lr: 0.1, period: 5step}",
    "average={name: swa, start: 2ep, anneal: 2step, every: 2step, lr: 0.02}",
]
TIMES = ("seconds", "training_seconds", "images_per_second")
LONG = (pytest.mark.slow, pytest.mark.timeout(1800))


class Victim:
    """A run that is killed and goes on."""

    def __init__(self, groundup: Any, run: Any, arguments: list[str]) -> None:
        self._groundup, self.run, self._arguments = groundup, run, arguments

    def killed(self, happened: Callable[[], bool]) -> None:
        """Start it or let it go on, and kill it when that has `happened`."""
        first = not (self.run.path / "recipe.yaml").exists()
        arguments = ["train", *self._arguments, "--run", "run"] if first else ["resume", "run"]
        process = self._groundup.start(*arguments)
        self._groundup.wait(happened, process)
        process.kill()
        assert self._groundup.finish(process) == -signal.SIGKILL

    def in_step(self, step: int) -> Callable[[], bool]:
        """True at work on the update after `step`, of which the parts are far longer than the save before it."""
        return lambda: self.run.step() >= step and not self.run.is_saving()

    def in_save(self, step: int) -> Callable[[], bool]:
        return lambda: self.run.step() >= step and self.run.is_saving()

    def in_evaluation(self, epoch: int) -> Callable[[], bool]:
        """True a moment after the last save before the evaluation that ends `epoch`; nothing is saved until that is over."""
        saved_at: list[float] = []

        def happened() -> bool:
            if self.run.step() >= epoch * EPOCH - 1 and not saved_at:
                saved_at.append(time.monotonic())
            return bool(saved_at) and time.monotonic() - saved_at[0] > 0.3

        return happened


def averaged(run: Any) -> bytes:
    return (run.checkpoints / "last" / "average.safetensors").read_bytes()


def summary(run: Any) -> dict[str, Any]:
    """summary.json without what depends on the clock and without the name of the folder."""
    told = json.loads((run.path / "summary.json").read_text())
    return {key: value for key, value in told.items() if key not in (*TIMES, "run", "sessions", "notes")}


def finished(make_commands: Any, watch: Any, arguments: list[str], folder: Path) -> Any:
    """The run left alone."""
    (folder / "alone").mkdir()
    make_commands(folder / "alone").run("train", *arguments, "--run", "run")
    return watch(folder / "alone" / "run")


def assert_same(run: Any, alone: Any) -> None:
    assert run.step() == alone.step()
    assert run.metrics() == alone.metrics()
    assert run.weights() == alone.weights()
    assert averaged(run) == averaged(alone)
    assert summary(run) == summary(alone)
    assert not run.is_saving()


Moments = list[tuple[str, int]]  # what the run is at work on, and the step (evaluation: the epoch) of it


def kill_at(groundup: Any, run: Any, arguments: list[str], moments: Moments) -> None:
    """Start, kill at each of the moments and resume; then let it come to its end."""
    victim = Victim(groundup, run, arguments)
    for what, when in moments:
        happened = {"step": victim.in_step, "save": victim.in_save, "evaluation": victim.in_evaluation}[what](when)
        victim.killed(happened)
        if what == "evaluation":  # it was given up: the step before it is saved, its line not written
            assert run.step() == when * EPOCH - 1
            assert len(run.metrics()) == when - 1
        else:
            assert when <= run.step() < (when // EPOCH + 1) * EPOCH
    groundup.run("resume", "run")


@pytest.mark.parametrize(
    "moments",
    [
        # On the last step before the phase or the first of it; in the evaluation that lets the rate fall a second time.
        [("step", 12), ("evaluation", 3)],
        pytest.param(
            [("save", 3), ("evaluation", 2), ("step", 13), ("save", 15), ("step", 20), ("evaluation", 4)],
            marks=LONG,
        ),
    ],
    ids=["twice", "six times"],
)
def test_phases_ema_sam_accumulation_plateau_and_early_stopping_survive_kill_9(
    moments: Moments, groundup: Any, make_commands: Any, watch: Any, tmp_path: Path
) -> None:
    alone = finished(make_commands, watch, METHODS, tmp_path)
    lines = alone.metrics()
    assert [line["step"] for line in lines] == [6, 12, 18, 24]  # of 30
    assert [line["lr"] for line in lines] == pytest.approx([0.05, 0.05, 0.025, 0.0125])
    assert [line["label_smoothing"] for line in lines] == [0.1, 0.1, 0.0, 0.0]
    assert str(summary(alone)["ended"]).startswith("early: validation_loss")

    run = watch(tmp_path / "run")
    kill_at(groundup, run, METHODS, moments)
    assert_same(run, alone)


@pytest.mark.parametrize(
    "moments",
    [
        [("evaluation", 3)],  # with samples in the average, at its rate
        # On the way to the rate of the average; with the first sample; between two.
        pytest.param([("step", 12), ("save", 15), ("evaluation", 3), ("step", 21)], marks=LONG),
    ],
    ids=["once", "four times"],
)
def test_swa_its_own_rate_and_mixing_survive_kill_9(
    moments: Moments, groundup: Any, make_commands: Any, watch: Any, tmp_path: Path
) -> None:
    alone = finished(make_commands, watch, SWA, tmp_path)
    assert [line["lr"] == 0.02 for line in alone.metrics()] == [False, False, True, True]
    assert ["average_validation_top1" in line for line in alone.metrics()] == [False, False, True, True]

    run = watch(tmp_path / "run")
    kill_at(groundup, run, SWA, moments)
    assert_same(run, alone)
