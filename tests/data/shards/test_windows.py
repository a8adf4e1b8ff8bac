"""The order of a stream: a function of (seed, epoch, shards), window by window."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch

from groundup.basis.errors import UsageError
from groundup.data import WindowedOrder, epoch_order
from groundup.training import SampleOrder

STARTS = np.array([0, 5, 5, 12, 20, 21, 30])  # 6 shards of 5, 0, 7, 8, 1 and 9 images


def epoch(seed: int, number: int, window: int = 2) -> list[int]:
    return WindowedOrder(STARTS, window).places(seed, number, 0, 30).tolist()


def shard_of(image: int) -> int:
    return int(np.searchsorted(STARTS, image, side="right")) - 1


@pytest.mark.parametrize("window", [1, 2, 4, 6, 100])
def test_every_image_comes_once_in_an_epoch(window: int) -> None:
    assert sorted(epoch(0, 0, window)) == list(range(30))


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    assert epoch(0, 0) == epoch(0, 0)
    assert len({tuple(epoch(seed, number)) for seed in range(3) for number in range(3)}) == 9


def test_a_window_holds_so_many_shards_and_shuffles_their_images_together() -> None:
    order = epoch(3, 1)
    shards = [shard_of(image) for image in order]
    assert [len(set(shards[:cut]) & set(shards[cut:])) for cut in window_ends(3, 1)] == [0, 0]
    assert any(first > second for first, second in pairwise(shards))
    within = [image for image in order if shard_of(image) == 5]
    assert within != sorted(within)


def test_the_images_of_a_shard_come_in_a_new_order_in_every_epoch() -> None:
    orders = {tuple(image for image in epoch(3, number, 1) if shard_of(image) == 5) for number in range(6)}
    assert len(orders) == 6


def window_ends(seed: int, number: int) -> list[int]:
    order = epoch(seed, number)
    last_seen = {shard_of(image): place for place, image in enumerate(order)}
    seen: list[int] = []
    for place in range(len(order) - 1):
        if all(last_seen[shard_of(image)] <= place for image in order[: place + 1]):
            seen.append(place + 1)
    return seen


def test_any_part_of_an_epoch_can_be_asked_for_alone() -> None:
    whole = epoch(7, 2)
    for first in range(0, 30, 4):
        alone = WindowedOrder(STARTS, 2).places(7, 2, first, min(first + 11, 30)).tolist()
        assert alone == whole[first : first + 11]


@pytest.mark.parametrize("window", [6, 7])
def test_a_window_that_holds_all_shards_gives_the_order_of_other_sources(window: int) -> None:
    assert epoch(4, 2, window) == epoch_order(4, 2, 30).tolist()
    assert epoch(4, 2, 5) != epoch_order(4, 2, 30).tolist()


def test_it_says_which_shards_come_next_also_of_the_next_epoch() -> None:
    told: list[Sequence[int]] = []
    order = WindowedOrder(STARTS, 3, told.append)
    first = {shard_of(image) for image in order.places(0, 0, 0, 1).tolist()}
    assert len(told) == 1
    assert set(told[0]) | first <= set(range(6))
    assert len(told[0]) >= 2
    assert not first & set(told[0])
    last = order.places(0, 0, 29, 30)
    beginning = {shard_of(image) for image in WindowedOrder(STARTS, 3).places(0, 1, 0, 5).tolist()}
    assert len(last) == 1
    assert beginning <= set(told[-1])


def test_a_shard_of_which_no_image_is_wanted_is_not_announced() -> None:
    told: list[Sequence[int]] = []
    order = WindowedOrder(STARTS, 1, told.append)
    for epoch_number in range(2):
        order.places(0, epoch_number, 0, 30)
    assert {shard for shards in told for shard in shards} == {0, 2, 3, 4, 5}


def sample_order(windows: WindowedOrder | None, *, drop_last: bool = False, balanced: bool = False) -> SampleOrder:
    labels = torch.arange(30) % 3
    return SampleOrder(5, labels, batch_size=4, drop_last=drop_last, balanced=balanced, windows=windows)


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_run_that_begins_in_the_middle_of_a_window_gets_the_same_images(drop_last: bool) -> None:
    whole = sample_order(WindowedOrder(STARTS, 2), drop_last=drop_last)
    steps = range(3 * whole.steps_per_epoch)
    seen = [whole.at(step) for step in steps]
    for step in steps:
        epoch_number, indices = sample_order(WindowedOrder(STARTS, 2), drop_last=drop_last).at(step)
        assert epoch_number == seen[step][0]
        assert torch.equal(indices, seen[step][1])
    first_epoch = torch.cat([indices for number, indices in seen if number == 0]).tolist()
    assert len(set(first_epoch)) == len(first_epoch) == (28 if drop_last else 30)


def test_balanced_sampling_of_a_stream_is_refused() -> None:
    with pytest.raises(UsageError, match=r"train\.sampling='balanced'"):
        sample_order(WindowedOrder(STARTS, 2), balanced=True)


def test_the_order_of_a_long_epoch_is_never_held() -> None:
    starts = np.arange(0, 10_000_001, 1000)
    order = WindowedOrder(starts, 4)
    for first in range(0, 10_000_000, 1_000_000):
        order.places(0, 0, first, first + 256)
    held = sum(window.numel() for window in order._windows.values())
    assert held <= 8000
