"""What a step of another input size is taken to cost, where only a pass at the first was measured."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.basis.interruption import StopRequest
from groundup.recipe import load_recipe
from groundup.runs.cost import measure as module
from groundup.runs.prepare import first_job, make_plan, open_data, with_measured_constants
from groundup.training import Job, TrainingState

GROWING = ["data.resolution=16", "train.resolution=16", "phases=[{from: 0.5dur, set: {train.resolution: 24}}]"]
GROUNDUP = [sys.executable, "-m", "groundup"]
SPEED_NET = "model={name: speed_net, widths: [8, 8, 16], middles: [8, 8, 16]}"


def prepared(*overrides: str) -> tuple[Job, TrainingState]:
    recipe = load_recipe("digits", ["data.limit=64", "train.batch_size=16", *GROWING, *overrides])
    splits = open_data(recipe, StopRequest())
    return first_job(make_plan(with_measured_constants(recipe, splits), splits), lambda: None)


def test_a_network_of_plain_convolutions_makes_the_products_of_the_usual_count() -> None:
    job, state = prepared("model.width=8")
    assert module._flops_made(job, state.model) == {size: 2 * flops for size, flops in job.flops.items()}


def test_products_that_training_leaves_out_are_not_made_and_the_network_comes_back_as_it_was() -> None:
    job, state = prepared(SPEED_NET)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    made = module._flops_made(job, state.model.train())
    assert all(made[size] < 2 * flops for size, flops in job.flops.items())
    assert state.model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.model.state_dict().items())


def test_the_time_of_the_other_sizes_goes_by_the_products_made(monkeypatch: pytest.MonkeyPatch) -> None:
    job, state = prepared(SPEED_NET)
    found: list[Any] = []
    probed = module._Probe.of
    monkeypatch.setattr(module._Probe, "of", lambda *arguments: found.append(probed(*arguments)) or found[-1])
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    seconds = module.measure(job, state).step_seconds
    small, large = (seconds[size] - found[0].update_seconds for size in (16, 24))
    made = module._flops_made(job, state.model)
    assert large / small == pytest.approx(made[24] / made[16])
    assert large / small != pytest.approx(job.flops[24] / job.flops[16], rel=0.001)


def test_an_image_needs_half_the_memory_in_bf16_whatever_the_network_weighs() -> None:
    """Autograd keeps the weights in bf16 too, once, however many images there are."""
    per_image = {}
    for precision in ("fp32", "bf16"):
        job, state = prepared("model.width=64", f"train.precision={precision}")
        per_image[precision] = module.measure(job, state).per_image
    assert 0.4 < per_image["bf16"] / per_image["fp32"] < 0.65


def test_the_peak_of_a_process_is_what_was_said(tmp_path: Path) -> None:
    """Within a quarter, for a network whose weights and whose pictures both count."""
    small = [
        "digits",
        "model.width=64",
        "train.batch_size=256",
        "data.resolution=16",
        "train.epochs=1",
        "train.threads=1",
    ]
    told = subprocess.run(
        [*GROUNDUP, "check", *small, "--json"], cwd=tmp_path, capture_output=True, check=True, text=True
    )
    seen = subprocess.run(
        [*GROUNDUP, "bench", *small, "--json", "--steps=1"], cwd=tmp_path, capture_output=True, check=True, text=True
    )
    expected = json.loads(told.stdout)["cost"]["memory"]["bytes"]
    assert json.loads(seen.stdout)["peak_memory_bytes"] == pytest.approx(expected, rel=0.25)
