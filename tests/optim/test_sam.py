"""SAM: where the second gradient is taken, and that nothing but the gradient remains of it."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from groundup.basis.duration import Clock
from groundup.basis.errors import UsageError
from groundup.optim import SAMSettings, frozen_norm_statistics, uphill

CLOCK = Clock(steps_per_epoch=10, total_steps=100)


def settings(**changes: Any) -> SAMSettings:
    return SAMSettings.model_validate(changes)


def with_gradients(*values: list[float]) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.ones(len(gradient))) for gradient in values]
    for parameter, gradient in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(gradient)
    return parameters


def test_it_stands_at_distance_rho_along_the_gradient_of_all_parameters_together() -> None:
    a, b = with_gradients([3.0, 0.0], [4.0])
    with uphill([a, b], rho=0.5):
        torch.testing.assert_close(a.detach(), torch.tensor([1.3, 1.0]))
        torch.testing.assert_close(b.detach(), torch.tensor([1.4]))
        assert a.grad is None, "the second gradient must not be added to the first"


def test_the_scale_of_the_gradient_does_not_matter() -> None:
    small, large = with_gradients([3.0, 4.0]), with_gradients([3.0 * 2**16, 4.0 * 2**16])
    with uphill(small, rho=0.1), uphill(large, rho=0.1):
        torch.testing.assert_close(small[0].detach(), large[0].detach())


def test_afterwards_the_weights_are_back_to_the_last_bit_with_the_new_gradient() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(1000))
    before = weight.detach().clone()
    weight.grad = torch.randn(1000) * 1e3
    with uphill([weight], rho=0.3):
        assert not torch.equal(weight.detach(), before)
        (weight**2).sum().backward()
        expected = 2 * weight.detach().clone()
    assert torch.equal(weight.detach(), before)
    torch.testing.assert_close(weight.grad, expected)


@pytest.mark.parametrize("values", [[0.0, 0.0], [math.inf, 1.0], [math.nan, 1.0]])
def test_a_gradient_without_direction_moves_nothing(values: list[float]) -> None:
    (parameter,) = with_gradients(values)
    with uphill([parameter], rho=0.5):
        assert torch.equal(parameter.detach(), torch.ones(2))


def test_the_second_pass_leaves_norm_statistics_alone_and_the_first_pass_moves_them() -> None:
    norm = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, momentum=None))
    images = torch.randn(8, 3, 4, 4) + 2
    norm(images)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    with frozen_norm_statistics(norm):
        norm(images * 5)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    assert [module.momentum for module in norm] == [0.1, None]
    norm(images * 5)
    assert not torch.equal(norm.state_dict()["0.running_mean"], before["0.running_mean"])


def test_which_steps_use_it() -> None:
    assert all(settings().is_due(step, CLOCK) for step in range(100))
    late = settings(every="5step", **{"from": "0.9dur"})
    assert [step for step in range(100) if late.is_due(step, CLOCK)] == [90, 95]


def test_a_start_after_the_end_is_refused() -> None:
    with pytest.raises(UsageError, match=r"optimizer\.sam\.from=10ep.*would never begin"):
        settings(**{"from": "10ep"}).check(CLOCK)
    with pytest.raises(UsageError, match=r"optimizer\.sam\.every=0step"):
        settings(every="0step").check(CLOCK)


@pytest.mark.parametrize(
    ("late", "every", "left"), [("0step", "30ep", 100), ("0step", "100step", 100), ("0.8dur", "20step", 20)]
)
def test_an_interval_that_leaves_a_single_step_with_it_is_refused(late: str, every: str, left: int) -> None:
    with pytest.raises(UsageError) as caught:
        settings(every=every, **{"from": late}).check(CLOCK)
    assert f"optimizer.sam.every={every}: " in caught.value.message
    assert f"a single step would use it; allowed: less than {left} steps" in caught.value.message


@pytest.mark.parametrize(("late", "every"), [("0step", "99step"), ("0.8dur", "19step"), ("99step", "1step")])
def test_two_steps_with_it_or_all_that_are_left_are_enough(late: str, every: str) -> None:
    settings(every=every, **{"from": late}).check(CLOCK)


@pytest.mark.parametrize("rho", [0, -1])
def test_a_radius_that_does_nothing_is_refused(rho: float) -> None:
    with pytest.raises(ValidationError, match="rho"):
        settings(rho=rho)
