"""Who is stopped early, and that a configuration is compared over the same seeds at the same step."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.basis.duration import Clock, Duration
from groundup.compare.sweeps.pruning import Progress, should_prune
from groundup.compare.sweeps.status import summary_of
from groundup.compare.sweeps.sweep_file import HalvingPruning, HyperbandPruning, MedianPruning

from .conftest import carried_out

Write = Callable[..., Path]

CLOCK = Clock(10, 270)
MEDIAN = MedianPruning(name="median", start=Duration(1, "ep"), finished=3)
HALVING = HalvingPruning(name="successive_halving", start=Duration(1, "ep"), reduction=3)


def finished(number: int, *values: float) -> Progress:
    """A configuration with one seed per value, the same at every evaluation."""
    return Progress(number, True, {seed: {10: value, 20: value, 30: value} for seed, value in enumerate(values)})


def running(number: int, **seeds: dict[int, float]) -> Progress:
    return Progress(number, False, {int(seed[1:]): curve for seed, curve in seeds.items()})


@pytest.mark.parametrize(("value", "pruned"), [(0.4, True), (0.6, False)])
@pytest.mark.parametrize("maximize", [True, False])
def test_below_the_median_of_the_finished_is_stopped(value: float, pruned: bool, maximize: bool) -> None:
    others = [finished(0, 0.3), finished(1, 0.5), finished(2, 0.7)]
    current = running(3, s0={10: value})
    assert should_prune(MEDIAN, [*others, current], 3, 0, CLOCK, maximize=maximize) is (pruned is maximize)


def test_nobody_is_stopped_before_enough_have_finished_or_before_the_start() -> None:
    current = running(3, s0={10: 0.0})
    few = [finished(0, 0.5), finished(1, 0.5), running(2, s0={10: 0.5})]
    assert not should_prune(MEDIAN, [*few, current], 3, 0, CLOCK, maximize=True)
    late = MEDIAN.model_copy(update={"start": Duration(2, "ep")})
    enough = [finished(number, 0.5) for number in range(3)]
    assert should_prune(MEDIAN, [*enough, current], 3, 0, CLOCK, maximize=True)
    assert not should_prune(late, [*enough, current], 3, 0, CLOCK, maximize=True)


@pytest.mark.parametrize("rule", [MEDIAN, HALVING])
def test_a_configuration_that_has_diverged_counts_for_nothing(rule: MedianPruning | HalvingPruning) -> None:
    diverged, own = finished(9, float("nan")), running(3, s0={10: 0.1})
    others = [finished(number, 0.5) for number in range(3)]
    assert should_prune(rule, [*others, diverged, own], 3, 0, CLOCK, maximize=True)
    assert not should_prune(rule, [*others[:1], diverged, running(3, s0={10: 0.6})], 3, 0, CLOCK, maximize=True)
    half = running(3, s0={10: 0.1}, s1={10: float("nan"), 20: 0.1})
    assert not should_prune(rule, [*others, half], 3, 0, CLOCK, maximize=True)


def test_a_first_seed_is_compared_with_first_seeds() -> None:
    # Seed 0 is an unlucky one for everybody: the means over three seeds are near 0.7.
    others = [finished(number, 0.3, 0.9, 0.9) for number in range(3)]
    assert not should_prune(MEDIAN, [*others, running(3, s0={10: 0.4})], 3, 0, CLOCK, maximize=True)
    # With the second seed the mean of both counts: 0.5 against 0.6.
    both = running(3, s0={10: 0.4, 20: 0.4}, s1={10: 0.6})
    assert should_prune(MEDIAN, [*others, both], 3, 1, CLOCK, maximize=True)


def test_only_the_best_third_pass_a_rung() -> None:
    others = [running(number, s0={10: number / 10}) for number in range(5)]
    assert not should_prune(HALVING, [*others, running(5, s0={10: 0.35})], 5, 0, CLOCK, maximize=True)
    assert should_prune(HALVING, [*others, running(5, s0={10: 0.25})], 5, 0, CLOCK, maximize=True)


def test_between_rungs_nobody_is_judged() -> None:
    others = [finished(number, 0.9) for number in range(5)]
    behind = running(5, s0={10: 0.1, 20: 0.1})
    assert not should_prune(HALVING, [*others, behind], 5, 0, CLOCK, maximize=True)
    at_the_next = running(5, s0={10: 0.1, 20: 0.1, 30: 0.1})
    assert should_prune(HALVING, [*others, at_the_next], 5, 0, CLOCK, maximize=True)


def test_hyperband_compares_inside_a_bracket_that_begins_at_its_own_rung() -> None:
    rule = HyperbandPruning(name="hyperband", start=Duration(1, "ep"), reduction=3)
    # 270 steps and a first rung of 10 make brackets 0 to 3; configuration 5 is in bracket 1, whose first rung is step 30.
    same, other = finished(1, 0.9), finished(2, 0.9)
    early, at_rung = running(5, s0={10: 0.1}), running(5, s0={10: 0.1, 20: 0.1, 30: 0.1})
    assert not should_prune(rule, [same, early], 5, 0, CLOCK, maximize=True)
    assert should_prune(rule, [same, at_rung], 5, 0, CLOCK, maximize=True)
    assert not should_prune(rule, [other, at_rung], 5, 0, CLOCK, maximize=True)


def test_another_batch_size_is_compared_at_its_last_evaluation_before_the_step() -> None:
    others = [running(number, s0={7: 0.9, 14: 0.9}) for number in range(3)]
    assert should_prune(HALVING, [*others, running(3, s0={10: 0.1})], 3, 0, CLOCK, maximize=True)


def test_a_search_prunes_what_falls_behind_and_keeps_to_its_budget(sweep_file: Write, tmp_path: Path) -> None:
    file = sweep_file(
        grid=None,
        search={"space": {"schedule.lr": {"low": 1e-7, "high": 0.1, "log": True}}, "startup": 3},
        seeds=1,
        budget={"runs": 7},
        metric="validation_loss",
        prune={"name": "successive_halving", "start": "2step", "reduction": 2},
    )
    file.write_text(file.read_text().replace("checkpoint.every: 1step", "evaluate.every: 2step"))
    store = carried_out(file, tmp_path / "sweep")
    runs = store.runs()
    states = Counter(run.state for run in runs)
    assert len(runs) == 7
    assert states["pruned"] >= 1
    assert states["done"] >= 1
    assert states["pruned"] + states["done"] == 7
    whole = max(run.pflop for run in runs)
    assert all(0 < run.pflop < whole and run.value is None and run.reason for run in runs if run.state == "pruned")
    best = summary_of(store)["best"]
    assert best["mean"] == min(run.value for run in runs if run.value is not None)
