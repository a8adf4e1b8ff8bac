"""Ramp against torch's LinearLR and its closed form."""

import pytest
from torch.optim.lr_scheduler import LinearLR

from groundup.basis.duration import Clock
from groundup.optim.schedules import RampSettings, curve

CLOCK = Clock(steps_per_epoch=10, total_steps=70)


@pytest.mark.parametrize(("start_lr", "lr"), [(0.01, 0.1), (0.1, 0.01), (0.1, 0.1)])
def test_ramp_equals_torch_value_for_value_in_either_direction(start_lr, lr, torch_rates):
    top = max(start_lr, lr)
    expected, _ = torch_rates(lambda o: LinearLR(o, start_lr / top, lr / top, total_iters=70), top, 70)
    settings = RampSettings(start_lr=start_lr, lr=lr)
    drawn = [rates.lr for rates in curve(settings, CLOCK)]
    assert drawn == pytest.approx(expected, rel=1e-12, abs=0)
    assert drawn == pytest.approx([start_lr + (lr - start_lr) * k / 70 for k in range(70)], rel=1e-12, abs=0)
    assert settings.peak == top


def test_ramp_starts_at_its_start_and_would_end_one_step_after_the_run():
    drawn = [rates.lr for rates in curve(RampSettings(start_lr=0.01, lr=0.08), CLOCK)]
    assert drawn[0] == 0.01
    assert drawn[-1] == pytest.approx(0.079, rel=1e-12)


def test_ramp_from_a_rate_of_zero_is_refused():
    with pytest.raises(ValueError, match="greater than 0"):
        RampSettings(start_lr=0, lr=0.1)
