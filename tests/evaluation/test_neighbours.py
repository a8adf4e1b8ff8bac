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


def photographs(count: int, side: int) -> Tensor:
    """Random shapes with soft edges and some texture: uint8 (N, 3, side, side), neighbouring pixels alike as in a photograph."""
    generator = torch.Generator().manual_seed(5)
    layers = [torch.randn(count, 3, size, size, generator=generator) * size**-0.5 for size in (3, 6, 12, 24)]
    total = sum(
        F.interpolate(layer, size=(side, side), mode="bicubic", align_corners=False) * weight
        for layer, weight in zip(layers, (60, 60, 70, 90), strict=True)
    )
    return (128 + total).clamp(0, 255).to(torch.uint8)


def shrunk(images: Tensor) -> Tensor:
    return F.interpolate(images.float(), size=(32, 32), mode="bilinear", antialias=True).round().to(torch.uint8)


LARGE = photographs(24, 64)
SEEN = shrunk(LARGE)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("noise", lambda: SEEN.int() + torch.randint(-8, 9, SEEN.shape, generator=torch.Generator().manual_seed(1))),
        ("a darker copy of less contrast", lambda: SEEN * 0.6 + 10),
        ("shifted by two pixels", lambda: SEEN.roll((2, -2), (2, 3))),
        ("mirrored and brighter", lambda: SEEN.flip(3) * 0.9 + 25),
        ("cropped", lambda: shrunk(LARGE[:, :, 4:60, 2:58])),
        ("cropped more", lambda: shrunk(LARGE[:, :, 6:58, 4:56])),
        ("a colour taken off", lambda: SEEN * torch.tensor([1.0, 0.9, 0.75])[:, None, None]),
    ],
)
def test_another_copy_of_one_picture_is_a_near_duplicate(what: str, change: Callable[[], Tensor]) -> None:
    copies = change().clamp(0, 255).to(torch.uint8)
    for one, other in ((SEEN, copies), (copies, SEEN)):
        assert float(likeness(one, other).min()) >= NEAR_DUPLICATE, what


def test_pictures_of_the_same_tones_with_other_details_are_not_near_duplicates() -> None:
    blurred = F.avg_pool2d(F.pad(SEEN.float(), (4,) * 4, mode="reflect"), 9, 1)
    others = (blurred + (SEEN.float() - blurred).roll(1, 0)).clamp(0, 255).to(torch.uint8)
    assert float(likeness(SEEN, others).max()) < NEAR_DUPLICATE
    assert float(likeness(SEEN, SEEN.roll(1, 0)).max()) < NEAR_DUPLICATE


def test_a_sky_is_no_copy_of_another_sky() -> None:
    slope = torch.linspace(120, 200, 32)[None, None, :, None].expand(2, 3, 32, 32)
    noise = torch.randint(-2, 3, (2, 3, 32, 32), generator=torch.Generator().manual_seed(2))
    skies = (slope + noise).to(torch.uint8)
    assert float(likeness(skies[:1], skies[1:])) < NEAR_DUPLICATE


def test_tiny_images_are_near_duplicates_only_if_they_are_equal() -> None:
    assert likeness(IMAGES, (IMAGES * 0.9).to(torch.uint8)).tolist() == [0] * 6


@pytest.mark.parametrize("side", [24, 48])
def test_images_of_other_sizes_are_compared_at_one_size(side: int) -> None:
    images = F.interpolate(LARGE.float(), size=(side, side), mode="bilinear", antialias=True).to(torch.uint8)
    brighter = (images * 0.9 + 20).to(torch.uint8)
    assert float(likeness(images, brighter).min()) >= NEAR_DUPLICATE
    assert float(likeness(images, images.roll(1, 0)).max()) < NEAR_DUPLICATE


def test_pairs_must_have_one_shape_and_whole_pixels() -> None:
    with pytest.raises(UsageError, match="one shape"):
        likeness(IMAGES, IMAGES[:5])
    with pytest.raises(ValueError, match="uint8"):
        likeness(IMAGES.float(), IMAGES.float())
