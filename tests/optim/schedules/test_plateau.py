"""Plateau: replayed against torch's ReduceLROnPlateau, and what it remembers."""

import copy
import json
import math
import random

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from groundup.basis.duration import Clock
from groundup.basis.errors import UsageError
from groundup.optim.schedules import PlateauSettings, StepSettings, curve

PER_EPOCH = 7
NAN, INF = math.nan, math.inf


def plateau(**changes):
    return PlateauSettings(**({"lr": 0.1, "patience": "3ep"} | changes))


def clock_of(epochs):
    return Clock(PER_EPOCH, PER_EPOCH * epochs)


def replay(settings, values, every=1):
    """The rate in force after each evaluation, one every `every` epochs."""
    clock, memory, rates = clock_of(every * len(values) + 1), settings.memory(), []
    for number, value in enumerate(values, 1):
        step = number * every * PER_EPOCH
        memory = settings.observe(memory, {"epoch": number * every, settings.metric: value}, step, clock)
        rates.append(settings.at(step, clock, memory).lr)
    return rates


def torch_replay(values, lr=0.1, **arguments):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = ReduceLROnPlateau(optimizer, eps=0, **arguments)
    rates = []
    for value in values:
        scheduler.step(value)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def noisy(seed, falling=True, epochs=120):
    """A loss that falls (or an accuracy that rises) ever more slowly, with noise and some NaN."""
    draw = random.Random(seed)
    values = [3 * math.exp(-epoch / 8) + 0.5 + draw.gauss(0, 0.02) for epoch in range(epochs)]
    values = [NAN if draw.random() < 0.05 else value for value in values]
    return values if falling else [1 - value / 4 for value in values]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("metric", ["validation_loss", "validation_top1", "train_loss", "train_top1"])
@pytest.mark.parametrize(("threshold_mode", "threshold"), [("rel", 1e-4), ("rel", 0.05), ("abs", 0.03), ("abs", 0)])
@pytest.mark.parametrize(("patience", "cooldown"), [(10, 0), (2, 0), (0, 0), (3, 5), (0, 1)])
def test_rates_equal_torch_value_for_value(seed, metric, threshold_mode, threshold, patience, cooldown):
    falling = metric.endswith("loss")
    values = noisy(seed, falling)
    expected = torch_replay(
        values,
        mode="min" if falling else "max",
        factor=0.3,
        patience=patience,
        threshold=threshold,
        threshold_mode=threshold_mode,
        cooldown=cooldown,
        min_lr=1e-5,
    )
    settings = plateau(
        metric=metric,
        factor=0.3,
        patience=f"{patience}ep",
        threshold=threshold,
        threshold_mode=threshold_mode,
        cooldown=f"{cooldown}ep",
        min_lr=1e-5,
    )
    assert len(set(expected)) > 2
    assert replay(settings, values) == expected


@pytest.mark.parametrize(
    "values", [[NAN] * 6, [NAN, 1.0, NAN, NAN, NAN, NAN, NAN], [INF, INF, INF, INF, INF, 1.0], [-1.0, -1.1, -1.05] * 4]
)
def test_odd_values_are_taken_as_torch_takes_them(values):
    assert replay(plateau(), values) == torch_replay(values, patience=3)


def test_published_plateau_on_a_loss_falls_by_halves_to_its_floor():
    # A ResNet-50 on CIFAR-100: AdamW at 1e-3, halved after more than 3 epochs without a gain of 0.1%, floor 1e-4.
    values = [4.0 * 0.9**epoch for epoch in range(20)] + [0.5] * 30
    expected = torch_replay(values, lr=1e-3, factor=0.5, patience=3, threshold=1e-3, min_lr=1e-4)
    settings = plateau(lr=1e-3, factor=0.5, patience="3ep", threshold=1e-3, min_lr=1e-4)
    assert replay(settings, values) == expected
    assert sorted(set(expected)) == pytest.approx([1e-4, 1.25e-4, 2.5e-4, 5e-4, 1e-3], rel=1e-12)


def test_nan_counts_as_no_improvement():
    values = [1.0, *[NAN] * 4, 2.0]
    assert replay(plateau(), values) == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.01, 0.01], rel=1e-12)


def test_patience_is_a_time_and_not_a_number_of_evaluations():
    # No improvement for more than 10 epochs is seen 12 epochs after the best when one looks every third epoch.
    rates = replay(plateau(patience="10ep"), [1.0] * 6, every=3)
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.01, 0.01], rel=1e-12)
    assert replay(plateau(patience="70step"), [1.0] * 6, every=3) == rates


def test_patience_counts_from_the_end_of_the_warmup():
    constant = [1.0] * 10
    assert replay(plateau(), constant).index(0.1 * 0.1) == 4
    assert replay(plateau(warmup="5ep"), constant).index(0.1 * 0.1) == 8


def test_warmup_is_a_ramp_to_the_rate_that_is_remembered():
    settings, clock = plateau(warmup="1ep"), clock_of(10)
    memory = settings.memory() | {"lr": 0.02}
    drawn = [settings.at(step, clock, memory).lr for step in range(9)]
    assert drawn[:7] == pytest.approx([0.1 * (step + 1) / 8 for step in range(7)], rel=1e-12)
    assert drawn[7:] == [0.02, 0.02]


def test_plateau_without_memory_is_drawn_as_if_it_never_came():
    settings, clock = plateau(), clock_of(10)
    assert {rates.lr for rates in curve(settings, clock)} == {0.1}
    assert settings.at(5, clock) == settings.at(5, clock, settings.memory())


def test_observing_leaves_the_old_memory_as_it_was():
    settings, clock = plateau(patience="0ep"), clock_of(10)
    memory = settings.memory()
    for step, value in ((7, 1.0), (14, 2.0)):
        before = copy.deepcopy(memory)
        after = settings.observe(memory, {"validation_loss": value}, step, clock)
        assert memory == before != after
        memory = after
    assert memory == {"lr": 0.1 * 0.1, "best": 1.0, "since": 14}


def test_memory_goes_through_a_checkpoint_in_the_middle():
    settings, values, clock = plateau(cooldown="2ep"), noisy(0), clock_of(121)
    memory, rates = settings.memory(), []
    for epoch, value in enumerate(values, 1):
        memory = json.loads(json.dumps(memory))
        memory = settings.observe(memory, {"validation_loss": value}, epoch * PER_EPOCH, clock)
        rates.append(settings.at(epoch * PER_EPOCH, clock, memory).lr)
    assert rates == replay(settings, values)


def test_record_without_the_metric_is_refused_with_what_there_is():
    settings = plateau()
    with pytest.raises(UsageError, match=r"metric='validation_loss' is not in the record.*: step, train_loss") as error:
        settings.observe(settings.memory(), {"step": 7, "train_loss": 1.0}, 7, clock_of(10))
    assert "metric: train_loss" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("metric", "mode", "said"),
    [
        ("validation_loss", "max", "a loss gets better when it falls"),
        ("train_loss", "max", "a loss gets better when it falls"),
        ("validation_top1", "min", "an accuracy gets better when it rises"),
        ("train_top1", "min", "an accuracy gets better when it rises"),
    ],
)
def test_mode_that_contradicts_the_metric_is_refused(metric, mode, said):
    with pytest.raises(ValueError, match=f"mode={mode} contradicts metric={metric}: {said}.*whatever happens"):
        plateau(metric=metric, mode=mode)


@pytest.mark.parametrize(("metric", "mode"), [("validation_loss", "min"), ("validation_top1", "max")])
def test_mode_that_says_what_the_metric_demands_changes_nothing(metric, mode):
    values = noisy(1, falling=mode == "min")
    assert replay(plateau(metric=metric, mode=mode), values) == replay(plateau(metric=metric), values)


def test_accuracy_is_watched_for_a_rise():
    assert replay(plateau(metric="validation_top1"), [0.1 * k for k in range(1, 10)]) == [0.1] * 9


def test_a_threshold_in_percent_of_an_accuracy_is_refused_and_of_a_loss_taken():
    with pytest.raises(ValueError, match=r"threshold=50: validation_top1 is a fraction .* below 1; .* write 0\.5"):
        plateau(metric="validation_top1", threshold_mode="abs", threshold=50)
    plateau(metric="validation_top1", threshold_mode="abs", threshold=0.5)
    plateau(metric="validation_loss", threshold_mode="abs", threshold=50)


def test_floor_at_the_peak_and_threshold_of_all_are_refused():
    with pytest.raises(ValueError, match=r"min_lr=0\.1 is not below lr=0\.1"):
        plateau(min_lr=0.1)
    with pytest.raises(ValueError, match="threshold=1 is a share of the best value"):
        plateau(threshold=1)


def test_patience_that_fills_the_run_is_refused_by_name():
    plateau(patience="8ep", warmup="1ep").check(clock_of(10))
    with pytest.raises(UsageError, match=r"schedule\.patience=9ep: 63 steps, but the run has 63 steps after") as error:
        plateau(patience="9ep", warmup="1ep").check(clock_of(10))
    assert "schedule.patience=0.1dur" in (error.value.hint or "")


def test_it_names_what_it_watches():
    settings = plateau(metric="train_top1")
    assert settings.metrics_needed == ("train_top1",)
    assert settings.stateful


def test_plateau_in_the_wrong_direction_is_the_step_schedule_that_it_was():
    # A published sweep watched a falling loss with mode=max: factor 0.2, patience 10, drops after epochs 12, 23 and 34.
    losses = [4 * 0.95**epoch for epoch in range(40)]
    wrong = torch_replay(losses, mode="max", factor=0.2, patience=10)
    settings = StepSettings(lr=0.1, gamma=0.2, milestones=["12ep", "23ep", "34ep"])
    clock = clock_of(41)
    drawn = [settings.at(epoch * PER_EPOCH, clock).lr for epoch in range(1, 41)]
    assert drawn == pytest.approx(wrong, rel=1e-12)
    assert [epoch for epoch in range(1, 40) if wrong[epoch] < wrong[epoch - 1]] == [11, 22, 33]  # 0-based
