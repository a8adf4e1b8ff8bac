"""Constant, linear, cosine and step: against their closed forms and torch's schedulers, with and without warm-up."""

import math

import pytest
from torch.optim import lr_scheduler

from groundup.basis.duration import Clock, Duration
from groundup.basis.errors import UsageError
from groundup.optim.schedules import ConstantSettings, CosineSettings, LinearSettings, StepSettings, curve

CLOCK = Clock(steps_per_epoch=20, total_steps=200)
PEAK, FINAL, GAMMA = 0.4, 0.003, 0.2


def lrs(settings, clock=CLOCK):
    return [rates.lr for rates in curve(settings, clock)]


def constant(**warmup):
    return ConstantSettings(lr=PEAK, **warmup)


def linear(**warmup):
    return LinearSettings(lr=PEAK, final_lr=FINAL, **warmup)


def cosine(**warmup):
    return CosineSettings(lr=PEAK, final_lr=FINAL, **warmup)


def step(**warmup):
    return StepSettings(lr=PEAK, milestones=["0.3dur", "6ep", "180step"], gamma=GAMMA, **warmup)


def torch_decay(name, optimizer, length, start):
    """torch's scheduler for the part after a warm-up of `start` steps; `length` steps remain."""
    if name == "constant":
        return lr_scheduler.ConstantLR(optimizer, factor=1.0)
    if name == "linear":
        return lr_scheduler.LinearLR(optimizer, 1.0, FINAL / PEAK, total_iters=length)
    if name == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=length, eta_min=FINAL)
    return lr_scheduler.MultiStepLR(optimizer, [milestone - start for milestone in (60, 120, 180)], gamma=GAMMA)


FAMILY = {"constant": constant, "linear": linear, "cosine": cosine, "step": step}


@pytest.mark.parametrize("name", FAMILY)
def test_schedule_equals_torch_value_for_value(name, torch_rates):
    expected, _ = torch_rates(lambda o: torch_decay(name, o, CLOCK.total_steps, 0), PEAK, CLOCK.total_steps)
    assert lrs(FAMILY[name]()) == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("start_factor", [0.01, 1 / 3])
def test_schedule_with_warmup_equals_a_torch_sequence_value_for_value(name, start_factor, torch_rates):
    warmup = 37

    def sequence(optimizer):
        rise = lr_scheduler.LinearLR(optimizer, start_factor, total_iters=warmup)
        fall = torch_decay(name, optimizer, CLOCK.total_steps - warmup, warmup)
        return lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[warmup])

    expected, _ = torch_rates(sequence, PEAK, CLOCK.total_steps)
    settings = FAMILY[name](warmup="37step", warmup_start=start_factor)
    assert lrs(settings) == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("name", FAMILY)
def test_default_warmup_is_an_even_ramp_that_ends_at_the_peak(name):
    warmed = lrs(FAMILY[name](warmup="2ep"))
    ramp = [PEAK * (step + 1) / 41 for step in range(41)]
    assert warmed[:41] == pytest.approx(ramp, rel=1e-12)
    assert warmed[40] == PEAK == max(warmed)


def test_warmup_of_one_step_starts_at_half_the_peak():
    assert lrs(constant(warmup="1step"))[:2] == [PEAK / 2, PEAK]


def test_linear_and_cosine_equal_their_closed_forms():
    start, length = 40, 160
    for t in range(start, 200):
        u = (t - start) / length
        assert linear(warmup="2ep").at(t, CLOCK).lr == pytest.approx(PEAK + (FINAL - PEAK) * u, rel=1e-12)
        half_cosine = FINAL + (PEAK - FINAL) * (1 + math.cos(math.pi * u)) / 2
        assert cosine(warmup="2ep").at(t, CLOCK).lr == pytest.approx(half_cosine, rel=1e-12)


def test_final_rate_belongs_to_the_step_after_the_last():
    assert linear().at(199, CLOCK).lr == pytest.approx(FINAL + (PEAK - FINAL) / 200, rel=1e-12)
    assert cosine().at(199, CLOCK).lr > FINAL


def test_cosine_without_final_rate_still_moves_at_its_last_step():
    last = CosineSettings(lr=PEAK).at(199, CLOCK).lr
    assert last == pytest.approx(PEAK * (1 + math.cos(math.pi * 199 / 200)) / 2, rel=1e-12)
    assert last > 0


def test_step_falls_at_the_milestone_itself():
    settings = StepSettings(lr=1.0, milestones=["0.5dur", "150step"], gamma=0.1)
    values = lrs(settings)
    assert [values[i] for i in (0, 99, 100, 149, 150, 199)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01], rel=1e-12)


@pytest.mark.parametrize(
    ("milestones", "warmup", "said"),
    [
        (["120step", "0.5dur"], "0step", "increasing"),
        (["100step", "0.5dur"], "0step", "increasing"),
        (["0step"], "0step", "from step 1"),
        (["1ep"], "2ep", "from step 40"),
        (["200step"], "0step", "to step 199"),
    ],
)
def test_milestones_that_do_not_fit_are_refused_by_name(milestones, warmup, said):
    with pytest.raises(UsageError, match=said) as error:
        StepSettings(lr=1.0, milestones=milestones, warmup=warmup).check(CLOCK)
    assert "schedule.milestones=[" in error.value.message
    assert milestones[0] in error.value.message
    assert error.value.hint is not None


def test_milestones_at_both_edges_are_accepted():
    StepSettings(lr=1.0, milestones=["2ep", "199step"], warmup="2ep").check(CLOCK)


def test_durations_of_the_recipe_become_durations():
    assert cosine(warmup="5ep").warmup == Duration(5, "ep")
