"""Neighbours in feature space against one big product, and pixels that confirm a copy or do not."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from groundup.basis.errors import GroundupError, UsageError
from groundup.evaluation import NEAR_DUPLICATE, likeness, nearest

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


def test_copies_and_mirrored_copies_are_one_picture() -> None:
    assert likeness(IMAGES, IMAGES).tolist() == [1] * 6
    assert likeness(IMAGES, IMAGES.flip(3)).tolist() == [1] * 6
    flat = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)  # without details, but equal
    assert likeness(flat, flat).tolist() == [1]


def shrunk(images: Tensor) -> Tensor:
    return F.interpolate(images.float(), size=(32, 32), mode="bilinear", antialias=True).round().to(torch.uint8)


@pytest.fixture(scope="module")
def large(photographs: Callable[[int, int], Tensor]) -> Tensor:
    """Pictures of 64 px."""
    return photographs(24, 64)


@pytest.fixture(scope="module")
def seen(large: Tensor) -> Tensor:
    """The same at 32 px."""
    return shrunk(large)


NOISE = torch.randint(-8, 9, (24, 3, 32, 32), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("noise", lambda seen, _: seen.int() + NOISE),
        ("a darker copy of less contrast", lambda seen, _: seen * 0.6 + 10),
        ("shifted by two pixels", lambda seen, _: seen.roll((2, -2), (2, 3))),
        ("mirrored and brighter", lambda seen, _: seen.flip(3) * 0.9 + 25),
        ("a colour taken off", lambda seen, _: seen * torch.tensor([1.0, 0.9, 0.75])[:, None, None]),
        ("cropped", lambda _, large: shrunk(large[:, :, 4:60, 2:58])),
        ("cropped more", lambda _, large: shrunk(large[:, :, 6:58, 4:56])),
        ("cropped in a corner", lambda _, large: shrunk(large[:, :, :56, :56])),
        ("cropped in the other corner", lambda _, large: shrunk(large[:, :, 10:, 10:])),
    ],
)
def test_another_copy_of_one_picture_is_a_near_duplicate(
    what: str, change: Callable[[Tensor, Tensor], Tensor], seen: Tensor, large: Tensor
) -> None:
    copies = change(seen, large).clamp(0, 255).to(torch.uint8)
    for one, other in ((seen, copies), (copies, seen)):
        assert float(likeness(one, other).min()) >= NEAR_DUPLICATE, what


def test_pictures_of_the_same_tones_with_other_details_are_not_near_duplicates(seen: Tensor) -> None:
    blurred = F.avg_pool2d(F.pad(seen.float(), (4,) * 4, mode="reflect"), 9, 1)
    others = (blurred + (seen.float() - blurred).roll(1, 0)).clamp(0, 255).to(torch.uint8)
    assert 0 < float(likeness(seen, others).max()) < NEAR_DUPLICATE
    assert float(likeness(seen, seen.roll(1, 0)).max()) < NEAR_DUPLICATE


def test_a_sky_is_no_copy_of_another_sky() -> None:
    slope = torch.linspace(120, 200, 32)[None, None, :, None].expand(2, 3, 32, 32)
    noise = torch.randint(-2, 3, (2, 3, 32, 32), generator=torch.Generator().manual_seed(2))
    skies = (slope + noise).to(torch.uint8)
    assert float(likeness(skies[:1], skies[1:])) < NEAR_DUPLICATE


def test_tiny_images_are_near_duplicates_only_if_they_are_equal() -> None:
    assert likeness(IMAGES, (IMAGES * 0.9).to(torch.uint8)).tolist() == [0] * 6


def test_a_comparison_can_be_stopped(seen: Tensor) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        likeness(seen, (seen * 0.9).to(torch.uint8), stop)


@pytest.mark.parametrize("side", [24, 48])
def test_images_of_other_sizes_are_compared_at_one_size(side: int, large: Tensor) -> None:
    images = F.interpolate(large.float(), size=(side, side), mode="bilinear", antialias=True).to(torch.uint8)
    brighter = (images * 0.9 + 20).to(torch.uint8)
    assert float(likeness(images, brighter).min()) >= NEAR_DUPLICATE
    assert float(likeness(images, images.roll(1, 0)).max()) < NEAR_DUPLICATE


def test_pairs_must_have_one_shape_and_whole_pixels() -> None:
    with pytest.raises(UsageError, match="one shape"):
        likeness(IMAGES, IMAGES[:5])
    with pytest.raises(ValueError, match="uint8"):
        likeness(IMAGES.float(), IMAGES.float())
