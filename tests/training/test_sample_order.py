"""The sample order is a function of seed and step: each image once per epoch, or classes equally often."""

from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from groundup.basis.errors import UsageError
from groundup.data import epoch_order
from groundup.training import SampleOrder

LABELS = torch.arange(103) % 10


def order(
    seed: int = 0, labels: Tensor = LABELS, batch_size: int = 10, drop_last: bool = True, balanced: bool = False
) -> SampleOrder:
    return SampleOrder(seed, labels, batch_size=batch_size, drop_last=drop_last, balanced=balanced)


def epoch(of: SampleOrder, number: int) -> list[Tensor]:
    first = number * of.steps_per_epoch
    found = [of.at(step) for step in range(first, first + of.steps_per_epoch)]
    assert [epoch for epoch, _ in found] == [number] * len(found)
    return [indices for _, indices in found]


@pytest.mark.parametrize("number", [0, 3])
def test_with_the_short_last_batch_each_image_comes_once_per_epoch(number: int) -> None:
    batches = epoch(order(drop_last=False), number)
    assert [len(batch) for batch in batches] == [10] * 10 + [3]
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(103))


def test_without_it_batches_are_full_no_image_comes_twice_and_others_are_left_out_next_time() -> None:
    first, second = (torch.cat(epoch(order(), number)) for number in (0, 1))
    assert order().steps_per_epoch == 10
    for drawn in (first, second):
        assert len(drawn.unique()) == len(drawn) == 100
    left_out = [set(range(103)) - set(drawn.tolist()) for drawn in (first, second)]
    assert left_out[0] != left_out[1]


def test_a_batch_that_divides_the_data_is_the_same_either_way() -> None:
    labels = LABELS[:100]
    for step in (0, 9, 10):
        assert torch.equal(order(labels=labels).at(step)[1], order(labels=labels, drop_last=False).at(step)[1])


def test_one_batch_may_hold_all_images() -> None:
    whole = order(batch_size=103)
    assert whole.steps_per_epoch == 1
    assert torch.equal(whole.at(5)[1].sort().values, torch.arange(103))


def test_it_is_pure_in_the_step_whatever_was_asked_before() -> None:
    one, other = order(), order()
    forward = [one.at(step) for step in range(35)]
    for step in (34, 0, 17, 17, 3, 29, 1):
        epoch_number, indices = other.at(step)
        assert epoch_number == forward[step][0] == step // 10
        assert torch.equal(indices, forward[step][1])


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    drawn = [epoch(order(seed), number)[0].tolist() for seed in (0, 1) for number in (0, 1)]
    assert len({tuple(each) for each in drawn}) == 4


def test_balanced_sampling_draws_classes_equally_often() -> None:
    labels = torch.cat([torch.zeros(900), torch.ones(90), torch.full((10,), 2)]).long()
    balanced = order(labels=labels, batch_size=100, balanced=True)
    drawn = torch.cat([torch.cat(epoch(balanced, number)) for number in range(10)])
    counts = torch.bincount(labels[drawn])
    assert chisquare(counts.numpy()).pvalue > 1e-4
    shuffled = torch.cat(epoch(order(labels=labels, batch_size=100), 0))
    assert torch.bincount(labels[shuffled]).tolist() == [900, 90, 10]


def test_balanced_sampling_passes_over_classes_without_images() -> None:
    labels = torch.tensor([0, 0, 0, 5])
    drawn = torch.cat([order(labels=labels, batch_size=4, balanced=True).at(step)[1] for step in range(200)])
    counts = torch.bincount(labels[drawn], minlength=6)
    assert counts[1:5].sum() == 0
    assert 0.4 < counts[5] / 800 < 0.6


def test_a_batch_larger_than_the_data_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(UsageError) as caught:
        order(batch_size=104)
    assert "train.batch_size=104" in caught.value.message
    assert "allowed: 1 to 103" in caught.value.message
    assert caught.value.hint == "set train.batch_size=10"


@pytest.mark.parametrize(("images", "proposed"), [(5, 5), (14, 8), (79, 8), (90, 9)])
def test_the_batch_that_is_proposed_instead_is_one_that_batch_norm_can_use(images: int, proposed: int) -> None:
    with pytest.raises(UsageError) as caught:
        order(labels=torch.zeros(images, dtype=torch.long), batch_size=128)
    assert caught.value.hint == f"set train.batch_size={proposed}"


def test_orders_are_drawn_once_though_the_next_epoch_is_asked_for_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def watched(seed: int, number: int, *rest: Any) -> Tensor:
        drawn.append(number)
        return epoch_order(seed, number, *rest)

    monkeypatch.setattr("groundup.training.order.epoch_order", watched)
    both = order()
    for step in range(20):
        both.at(step + 4)
        both.at(step)
    assert drawn == [0, 1, 2]
