"""Constant, linear, cosine, step and other decays: against their closed forms and torch's schedulers, with and without warm-up."""

import math

import pytest
from torch.optim import lr_scheduler

from groundup.basis.duration import Clock, Duration
from groundup.basis.errors import UsageError
from groundup.optim.schedules import (
    ConstantSettings,
    CosineSettings,
    ExponentialSettings,
    InverseSqrtSettings,
    LinearSettings,
    PolynomialSettings,
    StepSettings,
    curve,
)

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


def exponential(**warmup):
    return ExponentialSettings(lr=PEAK, gamma=0.98, per="1step", **warmup)


def polynomial(**warmup):
    return PolynomialSettings(lr=PEAK, power=0.9, **warmup)


def inverse_sqrt(**warmup):
    return InverseSqrtSettings(lr=PEAK, timescale="50step", **warmup)


def torch_decay(name, optimizer, length, start):
    """torch's scheduler for the part after a warm-up of `start` steps; `length` steps remain."""
    if name == "constant":
        return lr_scheduler.ConstantLR(optimizer, factor=1.0)
    if name == "linear":
        return lr_scheduler.LinearLR(optimizer, 1.0, FINAL / PEAK, total_iters=length)
    if name == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=length, eta_min=FINAL)
    if name == "exponential":
        return lr_scheduler.ExponentialLR(optimizer, gamma=0.98)
    if name == "polynomial":
        return lr_scheduler.PolynomialLR(optimizer, total_iters=length, power=0.9)
    if name == "inverse_sqrt":
        return lr_scheduler.LambdaLR(optimizer, lambda t: math.sqrt(50 / max(t + start, 50)))
    return lr_scheduler.MultiStepLR(optimizer, [milestone - start for milestone in (60, 120, 180)], gamma=GAMMA)


FAMILY = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "step": step,
    "exponential": exponential,
    "polynomial": polynomial,
    "inverse_sqrt": inverse_sqrt,
}


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


@pytest.mark.parametrize("per", ["1ep", "0.1dur", "20step"])
def test_exponential_equals_its_closed_form_per_epoch(per):
    drawn = lrs(ExponentialSettings(lr=PEAK, gamma=0.5, per=per, warmup="10step"))
    assert drawn[10:] == pytest.approx([PEAK * 0.5 ** (t / 20) for t in range(190)], rel=1e-12)


def test_stepwise_exponential_equals_torch_stepped_once_per_epoch(torch_rates):
    expected, _ = torch_rates(lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9), PEAK, 10)
    drawn = lrs(ExponentialSettings(lr=PEAK, gamma=0.9, stepwise=True))
    assert drawn == pytest.approx([lr for lr in expected for _ in range(20)], rel=1e-12, abs=0)


def test_polynomial_equals_its_closed_form_down_to_its_final_rate():
    settings = PolynomialSettings(lr=PEAK, final_lr=FINAL, power=2, warmup="2ep")
    for t in range(40, 200):
        assert settings.at(t, CLOCK).lr == pytest.approx(FINAL + (PEAK - FINAL) * (1 - (t - 40) / 160) ** 2, rel=1e-12)


def test_inverse_square_root_falls_from_its_timescale_or_the_end_of_the_warmup():
    assert inverse_sqrt(warmup="1ep").at(50, CLOCK).lr == PEAK
    assert inverse_sqrt().at(199, CLOCK).lr == pytest.approx(PEAK * math.sqrt(50 / 199), rel=1e-12)
    plain = InverseSqrtSettings(lr=PEAK, warmup="2ep")
    assert lrs(plain)[40:] == pytest.approx([PEAK * math.sqrt(40 / t) for t in range(40, 200)], rel=1e-12)
    assert plain.at(160, CLOCK).lr == pytest.approx(PEAK / 2, rel=1e-12)


@pytest.mark.parametrize(("timescale", "warmup"), [("30step", "2ep"), ("10ep", "2ep"), ("0step", "0step")])
def test_timescale_inside_the_warmup_or_beyond_the_run_is_refused_by_name(timescale, warmup):
    earliest = 40 if warmup == "2ep" else 1
    with pytest.raises((UsageError, ValueError), match=f"allowed: from {earliest} .* to 199|set one of them"):
        InverseSqrtSettings(lr=PEAK, timescale=timescale, warmup=warmup).check(CLOCK)


def test_inverse_square_root_without_warmup_and_timescale_is_refused():
    with pytest.raises(ValueError, match="neither warmup nor timescale"):
        InverseSqrtSettings(lr=PEAK)


@pytest.mark.parametrize("per", ["0step", "0.01ep"])
def test_exponential_over_less_than_a_step_is_refused_by_name(per):
    with pytest.raises(UsageError, match=rf"schedule\.per={per}: less than one step") as error:
        ExponentialSettings(lr=PEAK, gamma=0.5, per=per).check(CLOCK)
    assert "schedule.per=1step" in (error.value.hint or "")


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
