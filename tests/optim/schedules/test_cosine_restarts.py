"""Warm restarts and the rebounding cosine: against torch's schedulers and the closed form."""

import math

import pytest
from torch.optim import lr_scheduler

from groundup.basis.duration import Clock
from groundup.basis.errors import UsageError
from groundup.optim.schedules import CosineRestartsSettings, curve

CLOCK = Clock(steps_per_epoch=20, total_steps=200)


def restarts(**changes):
    return CosineRestartsSettings(**({"lr": 0.4, "final_lr": 0.003, "period": "25step"} | changes))


def lrs(settings, clock=CLOCK):
    return [rates.lr for rates in curve(settings, clock)]


@pytest.mark.parametrize("growth", [1, 2, 3])
@pytest.mark.parametrize("period", [1, 7, 25, 300])
def test_restarts_equal_torch_value_for_value(growth, period, torch_rates):
    def torchs(optimizer):
        return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=period, T_mult=growth, eta_min=0.003)

    expected, _ = torch_rates(torchs, 0.4, 200)
    assert lrs(restarts(period=f"{period}step", growth=growth)) == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("period", [1, 7, 40, 300])
def test_rebound_equals_torchs_cosine_stepped_beyond_its_end(period, torch_rates):
    expected, _ = torch_rates(
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=period, eta_min=0.003), 0.4, CLOCK.total_steps
    )
    assert lrs(restarts(period=f"{period}step", rebound=True)) == pytest.approx(expected, rel=1e-9, abs=0)


@pytest.mark.parametrize("rebound", [False, True])
def test_cycles_are_counted_from_the_end_of_the_warmup(rebound):
    warmed = lrs(restarts(warmup="2ep", rebound=rebound))
    assert warmed[:41] == pytest.approx([0.4 * (step + 1) / 41 for step in range(41)], rel=1e-12)
    assert warmed[40:] == lrs(restarts(rebound=rebound))[:160]


def test_rebound_is_back_at_the_peak_after_two_periods():
    drawn = lrs(restarts(period="1ep", rebound=True, final_lr=0))
    assert (drawn[0], drawn[40], drawn[80]) == (0.4, 0.4, 0.4)
    assert (drawn[20], drawn[60]) == pytest.approx((0, 0), abs=1e-15)
    assert drawn[21:40] == pytest.approx(drawn[19:0:-1], rel=1e-12)


def test_every_cycle_begins_at_the_peak_when_the_growth_is_not_whole():
    drawn = lrs(restarts(period="10step", growth=1.5))
    starts = [0, 10, 25, 47, 81, 132]  # cycles of 10, 15, 22 (22.5), 34 (33.75), 51 (50.6) steps
    assert [step for step, lr in enumerate(drawn) if lr == 0.4] == starts
    for step in range(25, 47):
        assert drawn[step] == pytest.approx(0.003 + 0.397 * (1 + math.cos(math.pi * (step - 25) / 22)) / 2, rel=1e-12)


@pytest.mark.parametrize("period", ["2ep", "0.2dur"])
def test_period_has_its_unit(period):
    assert lrs(restarts(period=period)) == lrs(restarts(period="40step"))


@pytest.mark.parametrize("period", ["0step", "0.01ep", "0.001dur"])
def test_period_of_less_than_a_step_is_refused_by_name(period):
    with pytest.raises(UsageError, match="allowed: at least one step") as error:
        restarts(period=period).check(CLOCK)
    assert error.value.message.startswith(f"schedule.period={period}: ")
    assert "schedule.period=10ep" in (error.value.hint or "")


def test_growth_of_a_rebounding_cosine_is_refused():
    with pytest.raises(ValueError, match="growth=2 does nothing with rebound: true"):
        restarts(rebound=True, growth=2)


def test_shrinking_cycles_are_refused():
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        restarts(growth=0.5)
