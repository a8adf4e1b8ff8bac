"""What a run costs: the counting, and the findings about it."""

from dataclasses import replace
from typing import Any

import pytest

from groundup.basis.duration import Clock, Duration
from groundup.preflight import Cost, Disk, Memory, check_cost, steps_by_size, subject_of, train_flops
from groundup.preflight.cost import COST_CODES, evaluated_images, readable_bytes, readable_time
from groundup.recipe import load_recipe

GB = 10**9


def cost(**changes: Any) -> Cost:
    """A run of 10 epochs of 100 steps that is cheap in every respect: 100 s of training, 10 s of evaluation."""
    plain = Cost(
        device="cpu",
        clock=Clock(100, 1000),
        train_flops=1e15,
        evaluation_flops=1e13,
        step_seconds={32: 0.1},
        seconds=100.0,
        evaluation_seconds=10.0,
        checkpoint_steps=100,
        evaluate_steps=100,
        memory=Memory({"weights": GB}, 10**6, 128, free=8 * GB, total=16 * GB),
        disk=Disk(GB, 4, free=100 * GB),
        how="made up",
    )
    return replace(plain, **changes)


def found(**changes: Any) -> list[tuple[str, str, str]]:
    return [(finding.code, finding.level, finding.mend) for finding in check_cost(cost(**changes))]


def test_a_cheap_run_is_not_worth_a_word() -> None:
    assert found() == []


def test_a_run_of_more_than_a_day_on_a_cpu() -> None:
    ((code, level, mend),) = found(seconds=10 * 86_400.0, checkpoint_steps=1)
    assert (code, level) == ("GU601", "warning")
    assert "1 take a day here" in mend
    assert found(seconds=86_000.0, checkpoint_steps=1) == []
    assert found(seconds=10 * 86_400.0, checkpoint_steps=1, device="cuda:0") == []


def test_checkpoints_that_are_hours_apart_and_the_mend_brings_them_to_half_an_hour() -> None:
    ((code, level, mend),) = found(seconds=36_000.0, checkpoint_steps=200)
    assert (code, level, mend) == ("GU602", "warning", "checkpoint.every=50step")
    assert found(seconds=36_000.0, checkpoint_steps=50) == []
    assert found(seconds=36_000.0, checkpoint_steps=100) == []  # an hour is not more than an hour


def test_a_checkpoint_at_the_end_alone_is_as_far_away_as_the_run_is_long() -> None:
    assert found(seconds=3_000.0, checkpoint_steps=10**6) == []
    assert [code for code, *_ in found(seconds=4_000.0, checkpoint_steps=10**6)] == ["GU602"]


def test_an_evaluation_that_costs_more_than_training_and_the_mend_brings_it_to_a_tenth() -> None:
    ((code, level, mend),) = found(evaluation_seconds=150.0, evaluate_steps=10)
    assert (code, level, mend) == ("GU603", "warning", "evaluate.every=1ep")  # 10 steps times 15
    assert found(evaluation_seconds=100.0) == []
    assert found(evaluation_seconds=1e4)[0][2] == "evaluate.every=1dur"


def test_checkpoints_that_do_not_fit_on_the_disk() -> None:
    ((code, level, mend),) = found(disk=Disk(GB, 40, free=30 * GB))
    assert (code, level, mend) == ("GU604", "error", "checkpoint.keep=2 checkpoint.keep_every=null")
    assert found(disk=Disk(20 * GB, 3, free=30 * GB))[0][2] == "free 30 GB"
    assert found(disk=Disk(GB, 30, free=30 * GB)) == []


def test_a_step_that_does_not_fit_into_memory_is_an_error_and_one_that_does_not_fit_just_now_a_warning() -> None:
    large = Memory({"weights": 2 * GB}, 100 * 10**6, 128, free=6 * GB, total=16 * GB)  # 14.8 GB
    ((code, level, mend),) = found(memory=large)
    assert (code, level, mend) == ("GU605", "warning", "train.micro_batch=32")
    assert found(memory=replace(large, total=14 * GB))[0][:2] == ("GU605", "error")
    assert found(memory=replace(large, free=15 * GB)) == []
    # Above 64 a multiple of 64, inside which images are mixed.
    assert found(memory=replace(large, free=10 * GB))[0][2] == "train.micro_batch=64"
    # No part of the batch fits where the rest is too large already.
    assert "data.cache=disk" in found(memory=replace(large, free=GB))[0][2]


# code, what brings it about, and the nearest that does not
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("GU601", {"seconds": 10 * 86_400.0, "checkpoint_steps": 1}, {"seconds": 86_000.0, "checkpoint_steps": 1}),
    ("GU602", {"seconds": 36_000.0, "checkpoint_steps": 200}, {"seconds": 36_000.0, "checkpoint_steps": 100}),
    ("GU603", {"evaluation_seconds": 150.0}, {"evaluation_seconds": 100.0}),
    ("GU604", {"disk": Disk(GB, 40, free=30 * GB)}, {"disk": Disk(GB, 30, free=30 * GB)}),
    (
        "GU605",
        {"memory": Memory({"weights": 2 * GB}, 10**8, 128, free=6 * GB, total=16 * GB)},
        {"memory": Memory({"weights": 2 * GB}, 10**7, 128, free=6 * GB, total=16 * GB)},
    ),
]


@pytest.mark.parametrize(("code", "wrong", "sound"), CASES, ids=lambda value: str(value)[:30])
def test_a_code_is_found_where_it_is_and_not_beside_it(code: str, wrong: dict[str, Any], sound: dict[str, Any]) -> None:
    assert [number for number, *_ in found(**wrong)] == [code]
    assert found(**sound) == []


def test_every_code_has_a_case() -> None:
    assert {code for code, *_ in CASES} == set(COST_CODES)


def test_the_price_is_that_of_training_and_evaluation_together() -> None:
    assert cost().price is None
    assert cost(seconds=3_000.0, evaluation_seconds=600.0, per_hour=2.5).price == pytest.approx(2.5)


PHASES = "phases=[{from: 2ep, set: {train.resolution: 24}}, {from: 5ep, set: {train.resolution: 16}}]"


def test_the_steps_are_counted_by_input_size_with_those_that_use_sam() -> None:
    sam = "optimizer={name: sgd, sam: {every: 3step, from: 0.35dur}}"
    subject = subject_of(
        load_recipe("digits", ["train={epochs: 10, batch_size: 100, resolution: 16}", PHASES, sam]), train_images=1000
    )
    settings = subject.recipe.optimizer.sam
    assert settings is not None
    counted: dict[int, list[int]] = {}
    for step in range(subject.clock.total_steps):
        steps = counted.setdefault(subject.live.at(step).resolution, [0, 0])
        steps[0] += 1
        steps[1] += settings.is_due(step, subject.clock)
    sizes = steps_by_size(subject.live, subject.clock, settings)
    assert sizes == {size: tuple(steps) for size, steps in counted.items()}
    assert sizes[16][0] == 70  # before the first and after the second phase
    assert sizes[24][1] > 0
    assert steps_by_size(subject.live, subject.clock, None)[24] == (30, 0)


def test_a_step_with_sam_counts_twice() -> None:
    assert train_flops({32: (10, 0)}, {32: 5}, 4) == 3 * 5 * 10 * 4
    assert train_flops({32: (10, 10)}, {32: 5}, 4) == 2 * 3 * 5 * 10 * 4


def test_evaluation_looks_at_the_average_too_and_at_the_test_split_once() -> None:
    assert evaluated_images(20, 0, 359, averaged=False, norm_images=0) == 359
    assert evaluated_images(20, 100, 359, averaged=False, norm_images=0) == 20 * 100 + 359
    assert evaluated_images(20, 100, 359, averaged=True, norm_images=50) == 20 * (200 + 50) + 359
    # Nothing to select on: the norms of the average are measured once, at the end.
    assert evaluated_images(20, 0, 359, averaged=True, norm_images=50) == 50 + 359


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.25, "0.25 s"), (48, "48 s"), (125, "2.1 min"), (5000, "83 min"), (10_000, "2.8 h"), (2.5 * 86_400, "2.5 days")],
)
def test_times_are_told_in_a_unit_that_a_person_reads(seconds: float, said: str) -> None:
    assert readable_time(seconds) == said


def test_sizes_are_told_in_powers_of_1000() -> None:
    assert [readable_bytes(size) for size in (999, 1500, 3.2e6, 12.34e9, 2e12)] == [
        *("999 B", "1.5 kB", "3.2 MB", "12.3 GB", "2 TB")
    ]


def test_what_is_suggested_can_be_pasted() -> None:
    for changes in (
        {"seconds": 36_000.0, "checkpoint_steps": 900},
        {"evaluation_seconds": 300.0, "evaluate_steps": 100},
    ):
        (_, _, mend), *_ = found(**changes)
        Duration.parse(mend.partition("=")[2])
        load_recipe("digits", [mend])
