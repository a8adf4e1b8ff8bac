"""One-cycle against torch's OneCycleLR and against a published closed form."""

import math

import pytest
from torch.optim.lr_scheduler import OneCycleLR

from groundup.basis.duration import Clock
from groundup.basis.errors import UsageError
from groundup.optim.schedules import OneCycleSettings, curve


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 0.3, 1.0])
@pytest.mark.parametrize("total", [7, 97, 240])
def test_rate_and_momentum_equal_torch_value_for_value(anneal, share, total, torch_rates):
    expected_lrs, expected_momenta = torch_rates(
        lambda o: OneCycleLR(
            o,
            max_lr=0.3,
            total_steps=total,
            pct_start=share,
            anneal_strategy=anneal,
            base_momentum=0.8,
            max_momentum=0.97,
            div_factor=20,
            final_div_factor=500,
        ),
        0.3,
        total,
    )
    settings = OneCycleSettings(
        max_lr=0.3,
        rise=f"{share}dur",
        anneal=anneal,
        div_factor=20,
        final_div_factor=500,
        cycle_momentum=True,
        base_momentum=0.8,
        max_momentum=0.97,
    )
    drawn = curve(settings, Clock(10, total))
    assert [rates.lr for rates in drawn] == pytest.approx(expected_lrs, rel=1e-12, abs=0)
    assert [rates.momentum for rates in drawn] == pytest.approx(expected_momenta, rel=1e-12, abs=0)


def test_defaults_are_torchs_except_for_the_momentum(torch_rates):
    expected, _ = torch_rates(lambda o: OneCycleLR(o, max_lr=0.1, total_steps=50), 0.1, 50)
    drawn = curve(OneCycleSettings(max_lr=0.1), Clock(10, 50))
    assert [rates.lr for rates in drawn] == pytest.approx(expected, rel=1e-12, abs=0)
    assert {rates.momentum for rates in drawn} == {None}


def test_default_momentum_range_is_torchs(torch_rates):
    _, expected = torch_rates(lambda o: OneCycleLR(o, max_lr=0.1, total_steps=50), 0.1, 50)
    drawn = curve(OneCycleSettings(max_lr=0.1, cycle_momentum=True), Clock(10, 50))
    assert [rates.momentum for rates in drawn] == pytest.approx(expected, rel=1e-12, abs=0)


def test_published_curve_of_200_epochs_is_reproduced():
    # A WRN-28-10 on CIFAR-100: 39,200 steps, max_lr 0.3, div 25, final_div 1000; peak between steps at 11,759.
    clock = Clock(steps_per_epoch=196, total_steps=39_200)
    drawn = curve(
        OneCycleSettings(max_lr=0.3, rise="0.3dur", div_factor=25, final_div_factor=1000, cycle_momentum=True), clock
    )
    for s, rates in enumerate(drawn):
        if s <= 11_759:
            expected = 0.012 + 0.288 * (1 - math.cos(math.pi * s / 11_759)) / 2
            momentum = 0.95 - 0.1 * (1 - math.cos(math.pi * s / 11_759)) / 2
        else:
            expected = 1.2e-5 + (0.3 - 1.2e-5) * (1 + math.cos(math.pi * (s - 11_759) / 27_440)) / 2
            momentum = 0.95 - 0.1 * (1 + math.cos(math.pi * (s - 11_759) / 27_440)) / 2
        assert math.isclose(rates.lr, expected, rel_tol=1e-9), s
        assert math.isclose(rates.momentum, momentum, rel_tol=1e-9), s
    assert drawn[0].lr == pytest.approx(0.012)
    assert drawn[11_759].lr == pytest.approx(0.3)
    assert drawn[-1].lr == pytest.approx(1.2e-5)


def test_rise_in_epochs_equals_the_same_share():
    clock = Clock(10, 100)
    assert curve(OneCycleSettings(max_lr=1, rise="3ep"), clock) == curve(
        OneCycleSettings(max_lr=1, rise="0.3dur"), clock
    )


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("rise", ["1step", "0.5dur", "0step"])
def test_shortest_runs_have_finite_rates(total, rise):
    for rates in curve(OneCycleSettings(max_lr=1, rise=rise), Clock(1, total)):
        assert 0 < rates.lr <= 1


def test_rise_longer_than_the_run_is_refused_by_name():
    with pytest.raises(UsageError, match=r"schedule\.rise=11ep: 110 steps in a run of 100 steps") as error:
        OneCycleSettings(max_lr=1, rise="11ep").check(Clock(10, 100))
    assert "schedule.rise=0.3dur" in (error.value.hint or "")


def test_momentum_range_without_cycling_is_refused():
    with pytest.raises(ValueError, match="do nothing without cycle_momentum"):
        OneCycleSettings(max_lr=1, max_momentum=0.9)


def test_momentum_range_upside_down_is_refused():
    with pytest.raises(ValueError, match="must not be above max_momentum"):
        OneCycleSettings(max_lr=1, cycle_momentum=True, base_momentum=0.95, max_momentum=0.85)
