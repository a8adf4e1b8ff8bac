"""The batch-norm statistics of an average: its own, measured with its weights, and at chance level without that."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from groundup.augment import normalize
from groundup.basis.duration import Clock, Duration
from groundup.basis.errors import GroundupError
from groundup.training import Job, train_step
from groundup.training.average import Average, EMASettings

CLOCK = Clock(steps_per_epoch=10, total_steps=100)
EMA = EMASettings(horizon=Duration(10, "step"), warmup=False)


class Net(nn.Module):
    """Dropout, a norm on the images themselves, a convolution, a second norm, dropout, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.first = nn.BatchNorm2d(3, momentum=0.3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.second = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(self.conv(self.first(self.drop(x)))))
        logits: Tensor = self.head(self.drop(x.mean((2, 3))))
        return logits


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def pictures(count: int = 3, seed: int = 0) -> list[Tensor]:
    """Batches of 8 images, each batch with a mean and a spread of its own."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 3, 6, 6, generator=generator) * (1 + i) + i for i in range(count)]


def accuracy(model: nn.Module, job: Job, images: Tensor, labels: Tensor) -> float:
    training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(normalize(images, job.mean, job.std))
    model.train(training)
    return float((logits.argmax(1) == labels).double().mean())


def test_parameters_averaged_without_statistics_are_at_chance_and_measured_ones_repair_it(lab: Any) -> None:
    """The average of a copy made at the start that takes over `parameters()` only, against ours, on the same weights."""
    changes = {"data": {"limit": 1200}, "train": {"epochs": 5, "batch_size": 64}, "augment": {"policy": []}}
    job, state = lab.build(changes)
    assert job.clock.total_steps >= 60
    images, labels = next(iter(job.data.batches(len(job.data))))
    average = Average(EMA, state.model, job.clock)
    wrong, decay = copy.deepcopy(state.model), math.exp(-1 / 10)
    state.model.train()
    while state.step < job.clock.total_steps:
        train_step(job, state)
        average.update(state.model, state.step)
        with torch.no_grad():
            for mine, its in zip(wrong.parameters(), state.model.parameters(), strict=True):
                mine.mul_(decay).add_(its, alpha=1 - decay)
    trained = accuracy(state.model, job, images, labels)
    assert trained > 0.9
    assert accuracy(wrong, job, images, labels) < 0.2  # 10 classes
    average.refresh_norms(normalize(part, job.mean, job.std) for part, _ in job.data.batches(64))
    assert accuracy(average.network, job, images, labels) > trained - 0.02
    # The weights were never the problem.
    wrong.load_state_dict({k: v for k, v in average.network.state_dict().items() if "running" in k}, strict=False)
    assert accuracy(wrong, job, images, labels) > trained - 0.02


def test_refreshed_statistics_of_a_first_norm_are_the_means_over_the_batches() -> None:
    average = Average(EMA, net(), CLOCK)
    for batches in (pictures(3), pictures(2, seed=1)):  # the second time it begins anew
        average.refresh_norms(iter(batches))
        norm = average.network.first
        assert isinstance(norm, nn.BatchNorm2d)
        means = torch.stack([images.mean((0, 2, 3)) for images in batches]).mean(0)
        variances = torch.stack([images.var((0, 2, 3)) for images in batches]).mean(0)
        torch.testing.assert_close(norm.running_mean, means)  # no dropout has touched the images
        torch.testing.assert_close(norm.running_var, variances)
        assert int(norm.num_batches_tracked) == len(batches)  # type: ignore[arg-type]


def test_a_refresh_leaves_weights_modes_momentum_and_the_training_model_as_they_were(
    differences: Callable[[Any, Any], list[str]],
) -> None:
    model = net().train()
    average = Average(EMA, model, CLOCK)
    average.update(model, 1)
    before, weights = copy.deepcopy(model.state_dict()), copy.deepcopy(dict(average.network.named_parameters()))
    random = torch.get_rng_state()
    average.refresh_norms(pictures())
    assert differences(model.state_dict(), before) == []
    assert model.training
    assert differences(dict(average.network.named_parameters()), weights) == []
    assert not any(module.training for module in average.network.modules())
    assert [m.momentum for m in average.network.modules() if isinstance(m, nn.BatchNorm2d)] == [0.3, 0.1]
    assert all(parameter.grad is None for parameter in average.network.parameters())
    assert torch.equal(torch.get_rng_state(), random), "no random number was drawn"


class Stopped(Exception):
    """What a check raises."""


def test_a_refresh_that_is_stopped_or_empty_leaves_the_statistics_as_they_were(
    differences: Callable[[Any, Any], list[str]],
) -> None:
    average = Average(EMA, net(), CLOCK)
    average.refresh_norms(pictures())
    before, left = copy.deepcopy(average.network.state_dict()), iter(range(1))

    def check() -> None:
        if next(left, None) is None:
            raise Stopped

    with pytest.raises(Stopped):
        average.refresh_norms(pictures(seed=5), check=check)
    assert differences(average.network.state_dict(), before) == []
    with pytest.raises(GroundupError, match="0 batches"):
        average.refresh_norms([])
    assert differences(average.network.state_dict(), before) == []
    average.refresh_norms(pictures(seed=5))
    assert differences(average.network.state_dict(), before) != []


def test_a_refresh_uses_the_precision_that_it_is_given() -> None:
    average = Average(EMA, net(), CLOCK)
    average.refresh_norms(pictures())
    full = average.network.second.running_mean.clone()  # type: ignore[union-attr, operator]
    average.refresh_norms(pictures(), autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    rounded = average.network.second.running_mean  # type: ignore[union-attr]
    assert isinstance(rounded, Tensor)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, full, rtol=0.05, atol=0.01)
    assert not torch.equal(rounded, full)


def test_a_network_without_batch_norm_needs_no_refresh() -> None:
    average = Average(EMA, nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), CLOCK)
    average.refresh_norms(pytest.fail("read") for _ in range(1))


def test_statistics_are_its_own_and_other_buffers_are_the_models() -> None:
    class Buffers(nn.Sequential):
        scale: Tensor
        count: Tensor
        mask: Tensor

        def __init__(self) -> None:
            super().__init__(nn.Linear(2, 2), nn.BatchNorm1d(2))
            self.table = nn.Parameter(torch.tensor([0, 1]), requires_grad=False)
            self.register_buffer("scale", torch.ones(2))
            self.register_buffer("count", torch.tensor(0))
            self.register_buffer("mask", torch.tensor([True, False]), persistent=False)

    model = Buffers()
    average = Average(EMA, model, CLOCK)
    for step in (1, 2, 3):
        model.scale = torch.full((2,), float(step))  # a new tensor, not a new value
        model.count += 7
        model.table.add_(3)
        model.mask.logical_not_()
        model(torch.randn(8, 2) + 5)
        average.update(model, step)
    network = average.network
    assert isinstance(network, Buffers)
    assert torch.equal(network.scale, torch.full((2,), 3.0))
    assert (int(network.count), network.count.dtype) == (21, torch.int64)
    assert torch.equal(network.table, torch.tensor([9, 10]))
    assert torch.equal(network.mask, torch.tensor([False, True]))
    norm, its = network[1], model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(its, nn.BatchNorm1d)
    assert its.num_batches_tracked == 3
    assert norm.num_batches_tracked == 0
    assert norm.running_mean is not None
    assert torch.equal(norm.running_mean, torch.zeros(2))
