"""Averages of the weights: closed forms, due steps, what is refused, and what an average shares with its model: nothing."""

import math
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from groundup.basis.duration import Clock, Duration
from groundup.basis.errors import UsageError
from groundup.training.average import (
    AVERAGES,
    Average,
    AverageSettings,
    EMASettings,
    NoAverage,
    SWASettings,
    swa_lr,
)

CLOCK = Clock(steps_per_epoch=10, total_steps=100)
READ: TypeAdapter[Any] = TypeAdapter(AverageSettings)


def ema(**values: Any) -> EMASettings:
    return EMASettings(**{"horizon": "10step", **values})


def swa(**values: Any) -> SWASettings:
    return SWASettings(**{"start": "50step", **values})


class Scalar(nn.Module):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))


def averaged(settings: EMASettings | SWASettings, path: Callable[[int], float], last: int = 100) -> list[float]:
    """The averaged weight after each of the updates 1 .. last, where the weight itself is path(update)."""
    model, seen = Scalar(), []
    average = Average(settings, model, CLOCK)
    for step in range(1, last + 1):
        with torch.no_grad():
            model.weight.fill_(path(step))
        average.update(model, step)
        seen.append(float(average.network.weight))  # type: ignore[arg-type]
    return seen


def sampled(settings: EMASettings | SWASettings) -> list[int]:
    """The numbers of finished updates after which a sample is taken."""
    model, due = Scalar(), []
    average = Average(settings, model, CLOCK)
    for step in range(CLOCK.total_steps + 1):
        before = average.updates
        average.update(model, step)
        due += [step] * (average.updates - before)
    return due


def net(seed: int = 0) -> nn.Sequential:
    """Takes images of 6 px."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))


def move(model: nn.Module, step: int) -> None:
    """Weights and statistics as if training had made update `step`."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator))
            else:
                tensor.add_(1)


def weights_of(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("every", [1, 5])
def test_the_share_of_a_weight_in_an_ema_falls_to_one_over_e_in_the_horizon(every: int) -> None:
    settings = ema(horizon="20step", every=f"{every}step", warmup=False)
    seen = averaged(settings, lambda step: 1.0 if step <= every else 0.0)
    assert seen[every + 20 - 1] == pytest.approx(math.exp(-1))
    assert seen[every + 60 - 1] == pytest.approx(math.exp(-3))


def test_an_ema_without_warmup_is_the_weighted_sum_of_its_samples() -> None:
    decay = math.exp(-2 / 10)
    samples = [math.sin(step) for step in range(2, 41, 2)]
    expected = decay ** (len(samples) - 1) * samples[0] + sum(
        (1 - decay) * decay ** (len(samples) - 1 - k) * samples[k] for k in range(1, len(samples))
    )
    assert averaged(ema(every="2step", warmup=False), math.sin, last=40)[-1] == pytest.approx(expected)


def test_with_warmup_the_first_sample_is_soon_forgotten_whatever_the_horizon() -> None:
    first = averaged(ema(horizon="100step"), lambda step: float(step == 1), last=7)[-1]
    # (1+1)/(10+1) * (1+2)/(10+2) * ... * (1+6)/(10+6)
    assert first == pytest.approx(math.factorial(7) * math.factorial(10) / math.factorial(16))
    without = averaged(ema(horizon="100step", warmup=False), lambda step: float(step == 1), last=7)[-1]
    assert without == pytest.approx(math.exp(-0.06))


def test_warmup_ends_where_the_horizon_is_reached() -> None:
    settings = ema(horizon="5step")
    shares = [settings.share(n, CLOCK) for n in range(1, 100)]
    assert shares[:3] == pytest.approx([9 / 11, 9 / 12, 9 / 13])
    assert shares[-1] == pytest.approx(1 - math.exp(-1 / 5))
    assert shares == sorted(shares, reverse=True)


def test_what_the_model_was_before_the_first_sample_does_not_count() -> None:
    path = lambda step: 1e9 if step < 30 else 2.0  # noqa: E731
    for settings in (ema(start="30step", warmup=False), ema(start="3ep"), swa(start="0.3dur")):
        assert averaged(settings, path)[-1] == 2.0


def test_swa_is_the_plain_mean_of_its_samples() -> None:
    seen = averaged(swa(start="40step", every="1ep"), math.sin)
    assert seen[-1] == pytest.approx(sum(math.sin(step) for step in range(40, 101, 10)) / 7)
    assert seen[65] == pytest.approx(sum(math.sin(step) for step in (40, 50, 60)) / 3), "and between samples it stays"


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (ema(), list(range(1, 101))),
        (ema(every="2ep"), [20, 40, 60, 80, 100]),
        (ema(start="95step", every="2step"), [95, 97, 99]),
        (swa(start="0.75dur"), [75, 85, 95]),
        (swa(start="0step", every="40step"), [40, 80]),
        (swa(start="50step", every="20step", lr=0.1, anneal="1ep"), [60, 80, 100]),
    ],
)
def test_samples_are_taken_when_they_are_due(settings: Any, steps: list[int]) -> None:
    assert sampled(settings) == steps
    settings.check(CLOCK)


def test_there_is_no_average_before_the_first_sample() -> None:
    model = Scalar()
    average = Average(swa(), model, CLOCK)
    average.update(model, 49)
    assert not average.ready
    average.update(model, 50)
    assert average.ready
    assert average.updates == 1


@pytest.mark.parametrize(
    ("settings", "message", "better"),
    [
        (ema(horizon="0step"), "average.horizon=0step: 0 steps", ema(horizon="0.1dur")),
        (ema(horizon="11ep"), "average.horizon=11ep: 110 steps in a run of 100 steps", ema(horizon="0.1dur")),
        (ema(start="10ep"), "average.start=10ep: step 100 of a run of 100 steps", ema(start="0.7dur")),
        (ema(every="101step"), "average.every=101step: 101 steps in a run of 100", ema(every="1step")),
        (ema(every="1dur"), r"average: 1 sample\(s\)", ema(start="0.7dur", every="1step")),
        (swa(start="1dur"), "average.start=1dur: step 100", swa(start="0.7dur")),
        (swa(every="11ep"), "average.every=11ep: 110 steps", swa(every="0.05dur")),
        (swa(start="95step"), r"average: 1 sample\(s\) from step 95", swa(start="0.7dur", every="0.05dur")),
        (swa(lr=0.1, anneal="60step"), r"average: 0 sample\(s\) from step 110", swa(start="0.7dur", every="0.05dur")),
    ],
)
def test_an_average_that_does_not_fit_the_run_is_refused_with_a_fix(settings: Any, message: str, better: Any) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        settings.check(CLOCK)
    assert caught.value.hint is not None
    for name in better.model_fields_set:
        value = getattr(better, name)
        assert value == getattr(settings, name) or f"average.{name}={value}" in caught.value.hint
    better.check(CLOCK)


def test_the_family_is_read_by_name_and_is_strict() -> None:
    assert list(AVERAGES) == ["none", "ema", "swa"]
    assert READ.validate_python({"name": "none"}) == NoAverage()
    assert READ.validate_python({"name": "ema", "horizon": "2ep"}).horizon == Duration(2, "ep")
    assert READ.validate_python({"name": "swa", "start": "0.7dur"}).every == Duration(1, "ep")
    NoAverage().check(CLOCK)
    for wrong in (
        {"name": "ema"},
        {"name": "ema", "horizon": 1000},
        {"name": "ema", "horizon": "1ep", "decay": 0.999},
        {"name": "swa"},
        {"name": "swa", "start": "0.7dur", "lr": 0},
        {"name": "swa", "start": "0.7dur", "anneal": "1ep"},
    ):
        with pytest.raises(ValidationError):
            READ.validate_python(wrong)


def test_the_rate_of_swa_is_the_schedules_then_half_a_cosine_then_constant() -> None:
    scheduled = lambda step: 1.0 - step / 100  # noqa: E731
    settings = swa(lr=0.1, anneal="20step")
    rates = [swa_lr(settings, step, CLOCK, scheduled) for step in range(100)]
    assert rates[:51] == [scheduled(step) for step in range(51)]
    assert rates[60] == pytest.approx((0.5 + 0.1) / 2)
    assert rates[55] == pytest.approx(0.1 + 0.4 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[70:] == [0.1] * 30
    assert swa_lr(swa(lr=2.0), 50, CLOCK, scheduled) == 2.0, "up as well as down, and at once without an anneal"
    assert [swa_lr(swa(), step, CLOCK, scheduled) for step in (0, 50, 99)] == [scheduled(step) for step in (0, 50, 99)]


def test_the_average_is_a_copy_that_shares_nothing() -> None:
    model = net().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    model(torch.randn(8, 3, 6, 6)).sum().backward()
    average = Average(ema(), model, CLOCK)
    theirs = {tensor.data_ptr() for tensor in model.state_dict().values()}
    own = dict(average.network.state_dict())
    assert theirs.isdisjoint(tensor.data_ptr() for tensor in own.values())
    assert all(not p.requires_grad and p.grad is None for p in average.network.parameters())
    assert all(p.requires_grad and p.grad is not None for p in model.parameters())
    assert not average.network.training
    assert own["0.weight"].is_contiguous(memory_format=torch.channels_last)
    pointers = {name: tensor.data_ptr() for name, tensor in own.items()}
    before = weights_of(average.network)
    move(model, 1)
    assert equal(weights_of(average.network), before)
    average.update(model, 1)
    average.update(model, 2)
    assert {name: tensor.data_ptr() for name, tensor in average.network.state_dict().items()} == pointers, "in place"


def test_another_model_of_the_same_kind_can_be_sampled() -> None:
    first, second = net(1), net(2)
    average = Average(swa(start="1step", every="1step"), first, CLOCK)
    average.update(first, 1)
    average.update(second, 2)
    for own, a, b in zip(weights_of(average.network), weights_of(first), weights_of(second), strict=True):
        torch.testing.assert_close(own, (a + b) / 2)


def test_tied_weights_stay_tied_and_frozen_ones_keep_every_bit() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[2].requires_grad_(False)
    frozen = weights_of(model[2])
    average = Average(ema(warmup=False), model, CLOCK)
    for step, value in ((1, 0.0), (2, 1.0)):
        with torch.no_grad():
            model[0].weight.fill_(value)  # type: ignore[operator]
        average.update(model, step)
    first, second, last = average.network.children()
    assert first.weight is second.weight
    torch.testing.assert_close(first.weight, torch.full((3, 3), 1 - math.exp(-0.1)))  # lerped once, not twice
    assert equal(weights_of(last), frozen)


def test_the_network_inside_a_compiled_one_is_averaged() -> None:
    model = net().train()
    average = Average(ema(warmup=False), model, CLOCK)
    compiled: Callable[[Tensor], Tensor] = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    samples: list[list[Tensor]] = []
    for step in (1, 2):
        loss = compiled(torch.randn(8, 3, 6, 6)).square().mean()
        loss.backward()
        optimizer.step()
        average.update(model, step)
        samples.append(weights_of(model))
    assert not equal(*samples)
    share = 1 - math.exp(-0.1)
    for own, first, last in zip(weights_of(average.network), *samples, strict=True):
        torch.testing.assert_close(own, first + share * (last - first))


@pytest.mark.parametrize("settings", [ema(every="2step"), swa(start="4step", every="3step")], ids=["ema", "swa"])
def test_an_average_that_was_saved_goes_on_bit_for_bit(
    settings: Any, differences: Callable[[Any, Any], list[str]]
) -> None:
    model = net()
    average = Average(settings, model, CLOCK)
    for step in range(1, 21):
        move(model, step)
        average.update(model, step)
        if step == 11:
            average.refresh_norms([torch.randn(8, 3, 6, 6)])
            kept = BytesIO()
            torch.save([average.to_dict(), average.network.state_dict(), model.state_dict()], kept)
    kept.seek(0)
    counters, weights, its = torch.load(kept, weights_only=True)
    again = net(seed=1)  # the weights of a fresh process
    resumed = Average(settings, again, CLOCK)
    for tensors, module in ((weights, resumed.network), (its, again)):
        for name, tensor in module.state_dict().items():
            tensor.copy_(tensors[name])
    resumed.load_dict(counters)
    for step in range(12, 21):
        move(again, step)
        resumed.update(again, step)
    assert resumed.updates == average.updates
    assert resumed.to_dict() == average.to_dict()
    assert differences(resumed.network.state_dict(), average.network.state_dict()) == []
    resumed.updates -= 1
    resumed.update(again, 22)
    average.update(again, 22)
    assert differences(resumed.network.state_dict(), average.network.state_dict()) != [], "the counter matters"
