"""The loop on a CUDA device; skipped where there is none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.tracking import Trackers
from groundup.training import choose_engine, train_step
from groundup.training.loop import describe
from groundup.training.watch import LossWatch

pytestmark = pytest.mark.gpu
ON_GPU: dict[str, Any] = {"train": {"device": "cuda"}}


def test_the_first_losses_are_those_of_the_cpu(lab: Any) -> None:
    (cpu_job, cpu_state), (gpu_job, gpu_state) = lab.build(), lab.build(ON_GPU)
    for _ in range(3):
        expected, got = float(train_step(cpu_job, cpu_state)), float(train_step(gpu_job, gpu_state))
        assert got == pytest.approx(expected, abs=2e-2)


def test_auto_takes_the_gpu_and_a_short_precision(lab: Any) -> None:
    recipe = lab.recipe({"train": {"device": "auto", "precision": "auto"}})
    engine = choose_engine(recipe.train, total_steps=10)
    assert engine.device == "cuda"
    assert engine.precision == ("bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_step_waits_for_the_gpu(precision: str, lab: Any) -> None:
    """A step is drawing, augmentation, mixing, forward, backward, clipping, the update, the running sums, and the report of a
    loss that the device has sent some steps before. torch raises where the host would wait for the device.

    Left out, because they do wait: the first steps (constants are copied to the device once), fp16 (the loss scaler asks whether
    the update is to be skipped), an evaluation, a checkpoint, and a phase that changes the size of the images.
    """
    policy = [{"name": "pad_crop", "pad": 1}, {"name": "flip", "alternate": True}, {"name": "cutout", "size": 2}]
    mix = {"clean": 0.2, "methods": [{"name": "mixup"}, {"name": "cutmix"}]}
    train = {"device": "cuda", "precision": precision, "clip_norm": 1.0}
    job, state = lab.build({"train": train, "augment": {"policy": policy}, "mix": mix})
    watch = LossWatch(Trackers([], report=pytest.fail), 1, lambda state: describe(job, state))
    for _ in range(2):
        watch.saw(state, train_step(job, state))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):  # into the second epoch, which has an order of its own
            watch.saw(state, train_step(job, state))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert job.order.steps_per_epoch < state.step < job.clock.total_steps


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_run_has_the_weights_of_the_uninterrupted_one(
    precision: str, lab: Any, tmp_path: Path, differences: Callable[[Any, Any], list[str]]
) -> None:
    changes = {"train": {"device": "cuda", "precision": precision, "deterministic": True}}
    whole = lab.run(tmp_path / "whole", changes)
    lab.run(tmp_path / "stopped", changes, stop_after=3)
    resumed = lab.run(tmp_path / "stopped", changes)
    assert differences(whole.outcome["weights"], resumed.outcome["weights"]) == []


def test_a_gradient_that_is_not_finite_is_counted_and_leaves_finite_weights(lab: Any) -> None:
    job, state = lab.build(ON_GPU)
    first = next(iter(state.model.parameters()))
    handle = first.register_hook(lambda gradient: gradient * float("nan"))
    train_step(job, state)
    handle.remove()
    assert state.sums.read()["skipped_updates"] == 1
    assert all(parameter.isfinite().all() for parameter in state.model.parameters())
