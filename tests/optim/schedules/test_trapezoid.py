"""Trapezoid against its closed form, and against torch's schedulers in sequence."""

import math

import pytest
from torch.optim import lr_scheduler

from groundup.basis.duration import Clock
from groundup.basis.errors import UsageError
from groundup.optim.schedules import TrapezoidSettings, curve

CLOCK = Clock(steps_per_epoch=10, total_steps=100)


def trapezoid(**changes):
    return TrapezoidSettings(**({"lr": 0.5, "warmup": "20step", "cooldown": "30step", "final_lr": 0.1} | changes))


@pytest.mark.parametrize(("shape", "bend"), [("linear", lambda u: u), ("sqrt", math.sqrt)])
def test_trapezoid_equals_its_closed_form(shape, bend):
    drawn = curve(trapezoid(shape=shape), CLOCK)
    for t, rates in enumerate(drawn):
        if t < 20:
            expected = 0.5 * (t + 1) / 21
        elif t <= 70:
            expected = 0.5
        else:
            expected = 0.1 + 0.4 * (1 - bend((t - 70) / 30))
        assert rates.lr == pytest.approx(expected, rel=1e-12), t


def test_linear_trapezoid_equals_a_torch_sequence_value_for_value(torch_rates):
    def sequence(optimizer):
        rise = lr_scheduler.LinearLR(optimizer, 0.05, total_iters=20)
        hold = lr_scheduler.ConstantLR(optimizer, factor=1.0)
        fall = lr_scheduler.LinearLR(optimizer, 1.0, 0.2, total_iters=30)
        return lr_scheduler.SequentialLR(optimizer, [rise, hold, fall], milestones=[20, 70])

    expected, _ = torch_rates(sequence, 0.5, 100)
    drawn = curve(trapezoid(warmup_start=0.05), CLOCK)
    assert [rates.lr for rates in drawn] == pytest.approx(expected, rel=1e-12, abs=0)


def test_warmup_and_cooldown_may_meet_in_a_triangle():
    settings = trapezoid(warmup="0.4dur", cooldown="0.6dur")
    settings.check(CLOCK)
    drawn = [rates.lr for rates in curve(settings, CLOCK)]
    assert drawn.index(max(drawn)) == 40
    assert drawn.count(0.5) == 1


def test_trapezoid_without_ramps_is_constant():
    drawn = curve(trapezoid(warmup="0step", cooldown="0step", final_lr=0), CLOCK)
    assert {rates.lr for rates in drawn} == {0.5}


def test_ramps_longer_than_the_run_are_refused_by_name():
    with pytest.raises(UsageError, match=r"schedule\.cooldown=9ep: 90 steps.*at most 80 steps") as error:
        trapezoid(cooldown="9ep").check(CLOCK)
    assert error.value.hint is not None


def test_final_rate_without_cooldown_is_refused():
    with pytest.raises(ValueError, match="does nothing without a cool-down"):
        trapezoid(cooldown="0step")
