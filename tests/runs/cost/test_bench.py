"""What `groundup bench` says of the parts of a step, and what it advises."""

import subprocess
import sys
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from groundup.basis.interruption import StopRequest
from groundup.data import DecodingLoader
from groundup.recipe import load_recipe
from groundup.runs.check.checking import check
from groundup.runs.cost import bench as bench_module
from groundup.runs.cost.advice import advice
from groundup.runs.cost.measure import steps_from
from groundup.runs.cost.parts import PARTS, seconds_by_part, shares
from groundup.runs.prepare import first_job, make_plan, open_data, with_measured_constants
from groundup.training import Engine, Job, TrainingState

CPU = Engine("cpu", 2, "fp32", False, True, "")


def prepared(overrides: list[str]) -> tuple[Job, TrainingState]:
    recipe = load_recipe("digits", overrides)
    splits = open_data(recipe, StopRequest())
    plan = make_plan(with_measured_constants(recipe, splits), splits)
    return first_job(plan, lambda: None)


def measured(mfu: float = 0.9, **parts: float) -> list[dict[str, Any]]:
    seconds = dict.fromkeys((*PARTS, "other"), 0.0) | parts
    return [{"mfu": mfu, "resolution": 8, "seconds": {"step": sum(seconds.values()), **seconds}}]


def test_every_part_is_timed_with_mixing_micro_batches_and_an_average(tiny: list[str]) -> None:
    job, state = prepared(
        [
            *tiny,
            "data.limit=250",
            "train.batch_size=130",
            "train.micro_batch=64",
            "mix.methods=[{name: mixup}]",
            "average={name: ema, horizon: 1step}",
        ]
    )
    parts = seconds_by_part(job, state, cycle([1]), rounds=2)
    assert all(parts[name] > 0 for name in PARTS if name != "sam")
    assert parts["sam"] == 0
    assert state.step == 1
    assert all(parameter.grad is None for parameter in state.model.parameters())


def test_sams_second_pass_is_a_part_of_the_steps_that_have_one(tiny: list[str]) -> None:
    sam = "optimizer={name: sgd, sam: {rho: 0.05, every: 2step}}"
    job, state = prepared([*tiny, "train.epochs=4", sam])
    assert seconds_by_part(job, state, cycle([2]), rounds=1)["sam"] > 0
    assert seconds_by_part(job, state, cycle([3]), rounds=1)["sam"] == 0
    late = load_recipe("digits", [*tiny, "train.epochs=4", "optimizer={name: sgd, sam: {rho: 0.05, from: 0.5dur}}"])
    assert "6 of the run's 12 do, and take about twice as long" in bench_module.bench(late, steps=1)["advice"][-1]
    always = load_recipe("digits", [*tiny, "train.epochs=4", "optimizer={name: sgd, sam: {rho: 0.05}}"])
    assert not any("SAM" in line for line in bench_module.bench(always, steps=1)["advice"])


def test_on_a_gpu_the_steps_that_are_timed_follow_one_another(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    job, state = prepared([*tiny, "train.epochs=4"])
    said: list[str] = []
    monkeypatch.setattr(bench_module, "_wait", lambda device: said.append("wait"))
    monkeypatch.setattr(bench_module, "_step", lambda *_: said.append("step"))
    bench_module._typical_step(job, state, cycle([1]), 3, StopRequest())
    assert said == ["wait", "step", "wait"] * 3
    said.clear()
    on_gpu = replace(job, engine=replace(job.engine, device="cuda"))
    bench_module._typical_step(on_gpu, state, cycle([1]), 3, StopRequest())
    assert said == ["wait", "step", "step", "step", "wait"]


def test_the_parts_make_up_the_step() -> None:
    seconds = {"step": 2.0, "forward": 0.5, "backward": 1.0, "other": 0.5}
    assert shares(seconds) == {"forward": 0.25, "backward": 0.5, "other": 0.25}
    overlapped = {"step": 1.0, "forward": 0.5, "backward": 1.5, "other": 0.0}
    assert sum(shares(overlapped).values()) == pytest.approx(1)


def test_a_network_faster_than_the_matrix_product_is_explained() -> None:
    recipe = load_recipe("digits")
    above = advice(recipe, CPU, measured(mfu=1.1, forward=0.3, backward=0.6), True)
    assert any("more than 100%" in line for line in above)
    assert not any("100%:" in line for line in advice(recipe, CPU, measured(forward=0.3, backward=0.6), True))


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"augment": 0.2}, "augmentation takes"),
        ({"data": 0.2}, "gathering the pixels takes"),
        ({"optimizer": 0.4}, "a larger train.batch_size"),
        ({"average": 0.2}, "average.every"),
        ({"other": 0.4}, "in none of its parts"),
    ],
)
def test_the_part_that_takes_too_long_is_named(parts: dict[str, float], says: str) -> None:
    recipe = load_recipe("digits")
    assert any(says in line for line in advice(recipe, CPU, measured(forward=0.3, backward=0.6, **parts), True))
    assert not any(says in line for line in advice(recipe, CPU, measured(forward=0.3, backward=0.6), True))


def test_a_network_that_waits_for_data_is_not_called_slow() -> None:
    found = advice(load_recipe("digits"), CPU, measured(mfu=0.12, data=0.7, forward=0.1, backward=0.2), True)
    assert "runs at 40% of a matrix product" in found[0]
    assert any("gathering the pixels takes 70%" in line for line in found)
    assert not any("cannot feed this hardware" in line for line in found)


def test_a_network_far_below_the_machine_is_explained() -> None:
    recipe = load_recipe("digits")
    slow = advice(recipe, CPU, measured(mfu=0.1, forward=0.3, backward=0.6), True)
    assert any("cannot feed this hardware" in line for line in slow)
    gpu = Engine("cuda", 2, "bf16", False, True, "eager: a run of 10 steps is too short to pay for it")
    slow = advice(recipe, gpu, measured(mfu=0.1, forward=0.3, backward=0.6), True)
    assert any("too short to pay" in line for line in slow)
    assert torch.device(gpu.device).type == "cuda"


def test_a_bench_tells_its_batch_and_ends_what_it_started(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    closed, said = [], []
    built = bench_module.first_job

    def watched(*arguments: Any) -> Any:
        job, state = built(*arguments)
        monkeypatch.setattr(type(job.data), "close", lambda data: closed.append(data))
        return job, state

    monkeypatch.setattr(bench_module, "first_job", watched)
    recipe = load_recipe("digits", [*tiny, "train.batch_size=auto"])
    bench_module.bench(recipe, steps=1, tell=said.append)
    assert len(closed) == 1
    assert said[0].startswith("train.batch_size=auto:")


GPU = Engine("cuda", 2, "bf16", True, True, "")


def about_data(engine: Engine, fits: bool, *overrides: str) -> str:
    recipe = load_recipe("digits", list(overrides))
    slow = measured(data=0.5, forward=0.2, backward=0.3)
    return "\n".join(line for line in advice(recipe, engine, slow, fits) if "pixels" in line or "decode" in line)


def test_a_place_for_the_pixels_is_advised_only_where_they_fit_and_it_is_another_one() -> None:
    assert "data.cache=device keeps" in about_data(GPU, True, "data.cache=host")
    assert "data.cache=" not in about_data(GPU, False, "data.cache=host")
    assert "data.cache=" not in about_data(CPU, True, "data.cache=host")
    assert "data.cache=" not in about_data(GPU, True, "data.cache=device")


CROP = "augment.policy=[{name: random_resized_crop}]"


def test_where_images_are_decoded_the_advice_is_one_that_can_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundup.runs.cost.advice.usable_cores", lambda: 8)
    own = ("data.cache=none", "data.workers=2", "data.prefetch=1", "data.resolution=64")
    said = about_data(GPU, True, *own)
    assert "data.workers=8 (now 2)" in said
    assert "data.prefetch=4 (now 1)" in said
    assert "--resolution 64" in said
    assert "data.cache=device" in said
    assert "data.cache=disk" in about_data(GPU, False, *own)
    assert "data.cache" not in about_data(GPU, True, *own, CROP)  # would be another run
    stream = about_data(GPU, True, "data.source=webdataset:shards", *own)
    assert "data.cache" not in stream
    assert "--resolution 64" in stream
    enough = about_data(GPU, True, "data.cache=none", "data.workers=8")
    assert "data.workers" not in enough
    assert "data.prefetch" not in enough
    assert "--resolution 8" in enough


GROWING = ["train.epochs=8", "data.cache=none", "phases=[{from: 0.5dur, set: {train.resolution: 12}}]"]


def test_measured_steps_follow_one_another_so_that_decoding_ahead_is_of_use(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    loaded = DecodingLoader.training

    def watched(loader: DecodingLoader, indices: torch.Tensor, step: int) -> torch.Tensor:
        asked.append(step)
        return loaded(loader, indices, step)

    monkeypatch.setattr(DecodingLoader, "training", watched)
    recipe = load_recipe("digits", [*tiny, *GROWING])
    bench_module.bench(recipe, steps=3)
    # A warm-up, 3 steps, and 3 times one for the whole and one for the parts.
    assert asked == [*range(10), *range(12, 22)]

    monkeypatch.setattr("groundup.runs.cost.measure._PATIENCE", float("inf"))
    asked.clear()
    check(recipe)
    assert [*range(4), *range(12, 16)] == asked[-8:]


def test_the_steps_of_a_phase_begin_again_where_it_ends(tiny: list[str]) -> None:
    job, _ = prepared([*tiny, *GROWING])
    for first in (0, 12):
        steps = steps_from(job, first)
        assert [next(steps) for _ in range(14)] == [*range(first, first + 12), first, first + 1]
    job.data.close()


def test_a_trace_may_be_asked_for_at_the_end_of_a_short_phase(tiny: list[str], tmp_path: Path) -> None:
    recipe = load_recipe("digits", [*tiny, "data.cache=none"])
    bench_module.bench(recipe, steps=4, profile=tmp_path / "trace.json")
    assert (tmp_path / "trace.json").stat().st_size > 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_peak_of_a_process_is_not_that_of_the_one_that_started_it() -> None:
    held = np.ones(1 << 27)  # 1 GB
    say = "import torch; from groundup.runs.cost.bench import peak_memory; print(peak_memory(torch.device('cpu')))"
    told = subprocess.run([sys.executable, "-c", say], capture_output=True, check=True, text=True).stdout
    assert 1e8 < int(told) < held.nbytes
    assert bench_module.peak_memory(torch.device("cpu")) > held.nbytes


@pytest.mark.gpu
def test_the_peak_is_that_of_the_steps_and_not_of_what_came_before(tiny: list[str]) -> None:
    before = torch.empty(4 << 30, dtype=torch.uint8, device="cuda")
    del before
    assert (
        bench_module.bench(load_recipe("digits", [*tiny, "train.device=cuda"]), steps=1)["peak_memory_bytes"] < 1 << 30
    )
