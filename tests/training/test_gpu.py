"""The loop on a CUDA device; skipped where there is none."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.tracking import Tracker, Trackers
from groundup.training import choose_engine, train_step
from groundup.training.loop import describe, settle
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


def test_the_speed_after_an_evaluation_is_that_of_the_gpu_and_not_of_launching(lab: Any) -> None:
    job, state = lab.build(ON_GPU)
    said: list[dict[str, Any]] = []

    class Speeds(Tracker):
        def step(self, record: Mapping[str, Any]) -> None:
            said.append(dict(record))

    watch = LossWatch(Trackers([Speeds()]), 1, lambda state: {"step": state.step})
    busy = torch.randn(4096, 4096, device="cuda")
    for _ in range(4):
        watch.saw(state, train_step(job, state))
        settle(job, state, watch)
        watch.leave_out(state)
        for _ in range(20):
            busy = (busy @ busy).clamp(-1, 1)  # the device is at work long after the host has said so
    speeds = [line["images_per_second"] for line in said[1:]]
    started = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    started[0].record()
    for _ in range(20):
        busy = (busy @ busy).clamp(-1, 1)
    started[1].record()
    torch.cuda.synchronize()
    assert max(speeds) < job.train.batch_size / (started[0].elapsed_time(started[1]) / 1000)
