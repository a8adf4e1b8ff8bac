"""Splits by seed keep the classes in proportion and are pure functions of their arguments."""

import numpy as np
import pytest

from groundup.basis.errors import DataError
from groundup.data.splits import stratified_choice, stratified_split

CLASSES = ["a", "b", "c", "d"]


def uneven() -> np.ndarray:
    labels = np.repeat([0, 1, 2, 3], [500, 73, 11, 2])
    return np.random.default_rng(0).permutation(labels)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.2, 0.5, 0.9, 0.999])
def test_each_class_gives_its_share_within_one_image_and_is_on_both_sides(share: float) -> None:
    labels = uneven()
    kept, taken = stratified_split(labels, share, CLASSES, 0, what="validation")
    assert sorted([*kept, *taken]) == list(range(len(labels)))
    for index in range(4):
        count = (labels == index).sum()
        assert abs((labels[taken] == index).sum() - share * count) <= 1
        assert (labels[taken] == index).any()
        assert (labels[kept] == index).any()


def test_a_split_is_exact_where_the_share_is_whole() -> None:
    labels = np.tile(np.arange(4), 50)
    _, taken = stratified_split(labels, 0.1, CLASSES, 0, what="validation")
    assert np.bincount(labels[taken]).tolist() == [5, 5, 5, 5]


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    first, again, other = (stratified_split(uneven(), 0.2, CLASSES, seed, what="x")[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()


def test_a_class_with_one_image_cannot_be_split() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    with pytest.raises(DataError, match="class b has 1 image: too few to split off a validation split"):
        stratified_split(labels, 0.5, CLASSES, 0, what="a validation split")


def test_a_class_without_images_does_not_disturb_the_others() -> None:
    kept, taken = stratified_split(np.array([0, 0, 2, 2]), 0.5, CLASSES, 0, what="x")
    assert len(kept) == len(taken) == 2


@pytest.mark.parametrize("count", [1, 7, 100, 585])
def test_a_choice_has_the_asked_size_and_proportions(count: int) -> None:
    labels = uneven()
    chosen = stratified_choice(labels, count, 0)
    assert len(np.unique(chosen)) == count
    for index in range(4):
        assert abs((labels[chosen] == index).sum() - count * (labels == index).mean()) <= 1


def test_a_choice_of_more_than_there_are_is_all() -> None:
    assert len(stratified_choice(uneven(), 10_000, 0)) == len(uneven())
