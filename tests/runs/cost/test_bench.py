"""What `groundup bench` says of the parts of a step, and what it advises."""

from typing import Any

import pytest
import torch

from groundup.basis.interruption import StopRequest
from groundup.recipe import load_recipe
from groundup.runs.cost import bench as bench_module
from groundup.runs.cost.advice import advice
from groundup.runs.cost.parts import seconds_by_part, shares
from groundup.runs.prepare import first_job, make_plan, open_data, with_measured_constants
from groundup.training import Engine, Job, TrainingState

CPU = Engine("cpu", 2, "fp32", False, True, "")


def prepared(overrides: list[str]) -> tuple[Job, TrainingState]:
    recipe = load_recipe("digits", overrides)
    splits = open_data(recipe, StopRequest())
    plan = make_plan(with_measured_constants(recipe, splits), splits)
    return first_job(plan, lambda: None)


def measured(mfu: float = 0.9, **parts: float) -> list[dict[str, Any]]:
    seconds = dict.fromkeys(("data", "augment", "forward", "backward", "optimizer", "average", "other"), 0.0) | parts
    return [{"mfu": mfu, "seconds": {"step": sum(seconds.values()), **seconds}}]


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
    parts = seconds_by_part(job, state, step=1, rounds=2)
    assert all(parts[name] > 0 for name in ("data", "augment", "forward", "backward", "optimizer", "average"))
    assert state.step == 1
    assert all(parameter.grad is None for parameter in state.model.parameters())


def test_the_parts_make_up_the_step() -> None:
    seconds = {"step": 2.0, "forward": 0.5, "backward": 1.0, "other": 0.5}
    assert shares(seconds) == {"forward": 0.25, "backward": 0.5, "other": 0.25}
    overlapped = {"step": 1.0, "forward": 0.5, "backward": 1.5, "other": 0.0}
    assert sum(shares(overlapped).values()) == pytest.approx(1)


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
    assert any(says in line for line in advice(recipe, CPU, measured(forward=0.3, backward=0.6, **parts)))
    assert not any(says in line for line in advice(recipe, CPU, measured(forward=0.3, backward=0.6)))


def test_a_network_far_below_the_machine_is_explained() -> None:
    recipe = load_recipe("digits")
    slow = advice(recipe, CPU, measured(mfu=0.1, forward=0.3, backward=0.6))
    assert any("cannot feed this hardware" in line for line in slow)
    gpu = Engine("cuda", 2, "bf16", False, True, "eager: a run of 10 steps is too short to pay for it")
    assert any("too short to pay" in line for line in advice(recipe, gpu, measured(mfu=0.1, forward=0.3, backward=0.6)))
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
