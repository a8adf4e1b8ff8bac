"""Neighbours in feature space against one big product, and pixels that confirm a copy or do not."""

import pytest
import torch

from groundup.basis.errors import GroundupError, UsageError
from groundup.evaluation import NEAR_DUPLICATE, confirm_by_pixels, nearest

GENERATOR = torch.Generator().manual_seed(0)
TRAIN = torch.randn(57, 8, generator=GENERATOR)
TEST = torch.randn(23, 8, generator=GENERATOR)
IMAGES = torch.randint(0, 256, (6, 3, 8, 8), generator=GENERATOR, dtype=torch.uint8)


@pytest.mark.parametrize("block", [1, 5, 57, 1000])
def test_blocks_change_nothing(block: int) -> None:
    similarity = torch.cosine_similarity(TEST[:, None], TRAIN[None], dim=2)
    for count in (1, 4, 57):
        index, found = nearest(TEST, TRAIN, block, count=count)
        expected = similarity.sort(dim=1, descending=True)
        assert torch.equal(index, expected.indices[:, :count])
        torch.testing.assert_close(found, expected.values[:, :count])


def test_there_are_no_more_neighbours_than_images() -> None:
    index, _ = nearest(TEST, TRAIN[:3], count=5)
    assert index.sort(dim=1).values.tolist() == [[0, 1, 2]] * len(TEST)


def test_a_search_can_be_ended_between_blocks_and_holds_no_more_than_a_block_of_each() -> None:
    class Ended(Exception):
        pass

    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Ended

    with pytest.raises(Ended):
        nearest(TEST, TRAIN, 10, check)
    calls = 10
    nearest(TEST, TRAIN, 10, check)
    assert calls == 10 + 3 * 6  # 23 and 57 rows in blocks of 10


def test_a_copy_of_any_length_is_found() -> None:
    index, similarity = nearest(3 * TRAIN[[40, 7]], TRAIN, block=10)
    assert index.tolist() == [[40], [7]]
    torch.testing.assert_close(similarity, torch.ones(2, 1))
    assert bool((similarity <= 1).all())


def test_a_row_of_zeros_is_similar_to_nothing() -> None:
    assert nearest(torch.zeros(1, 8), TRAIN)[1].tolist() == [[0]]


def test_half_precision_features_are_compared_in_float32() -> None:
    assert nearest(TEST.bfloat16(), TRAIN.bfloat16())[1].dtype == torch.float32


def test_features_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(23, 8\) and \(57, 4\)"):
        nearest(TEST, TRAIN[:, :4])
    with pytest.raises(GroundupError, match="no train images"):
        nearest(TEST, TRAIN[:0])


def test_copies_mirrored_copies_and_brighter_copies_are_near_duplicates() -> None:
    dim = (IMAGES // 2).clone()
    assert confirm_by_pixels(IMAGES, IMAGES).tolist() == [0] * 6
    assert confirm_by_pixels(IMAGES, IMAGES.flip(3)).tolist() == [0] * 6
    assert float(confirm_by_pixels(dim, dim + 40).max()) < 1e-6


def test_noise_of_a_recompressed_copy_passes_and_another_image_does_not() -> None:
    noise = torch.randint(-8, 9, IMAGES.shape, generator=GENERATOR)
    copies = (IMAGES.int() + noise).clamp(0, 255).to(torch.uint8)
    assert 0.005 < float(confirm_by_pixels(IMAGES, copies).max()) < NEAR_DUPLICATE
    assert float(confirm_by_pixels(IMAGES, IMAGES.roll(1, 0)).min()) > 5 * NEAR_DUPLICATE


def test_the_distance_is_a_share_of_the_full_range() -> None:
    black, halves = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    halves[:, :, :2] = 255
    assert confirm_by_pixels(black, halves).tolist() == [
        0.5
    ]  # after the mean brightness is taken off: all pixels by half


def test_pairs_must_have_one_shape_and_whole_pixels() -> None:
    with pytest.raises(UsageError, match="one shape"):
        confirm_by_pixels(IMAGES, IMAGES[:5])
    with pytest.raises(ValueError, match="uint8"):
        confirm_by_pixels(IMAGES.float(), IMAGES.float())
