"""The one entry: pure, the same for any batch size, stronger with severity, exact about what it refuses."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from groundup.basis.errors import UsageError
from groundup.evaluation.corruptions import APPROXIMATE, CORRUPTIONS, SEVERITIES, corrupt

Pictures = Callable[[int, int], Tensor]
Photographs = Callable[[str, int, int], Tensor]

NOT_RANDOM = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
# Steps (from, to) of severity whose published parameters need not raise the mean absolute difference.
LEVEL_STEPS_SMALL = {
    "glass_blur": {(1, 2), (2, 3), (4, 5)},  # only sigma grows, and evens out what the wandering pixels changed
    "motion_blur": {(3, 4)},  # the same sigma of 2 px; the further radius only adds what lies beyond 6 sigma
    "frost": {(2, 3), (3, 4), (4, 5)},  # the image is darkened as the bright ice is added: the sums cross
    "elastic_transform": {(1, 2), (2, 3), (3, 4), (4, 5)},  # the affine map weakens while the displacements grow
}
LEVEL_STEPS_LARGE = {
    "glass_blur": {(1, 2), (3, 4)},  # fewer rounds of wandering at the higher severity
    "snow": {(2, 3)},  # a higher threshold leaves fewer flakes
    "frost": {(2, 3), (3, 4), (4, 5)},
    "fog": {(3, 4), (4, 5)},  # the same thickness, finer; then a cloud that is thicker but darker between its peaks
    "elastic_transform": {
        (2, 3),
        (3, 4),
    },  # from one bend of the image to ripples; 3 and 4 share the affine map, which prevails
}


def test_the_names_are_the_standard_ones_in_the_standard_order() -> None:
    noise, blur = (
        ["gaussian_noise", "shot_noise", "impulse_noise"],
        ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur"],
    )
    weather = ["snow", "frost", "fog", "brightness"]
    digital = ["contrast", "elastic_transform", "pixelate", "jpeg_compression"]
    assert list(CORRUPTIONS) == noise + blur + weather + digital
    assert set(CORRUPTIONS) >= APPROXIMATE == {"frost"}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_batch_size_does_not_matter(name: str, pictures: Pictures) -> None:
    images = pictures(7, 32)
    for severity in SEVERITIES:
        whole = corrupt(images, name, severity, 3, first=100)
        parts = [corrupt(images[i:j], name, severity, 3, first=100 + i) for i, j in [(0, 4), (4, 6), (6, 7)]]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_batch_size_does_not_matter_for_large_images(name: str, pictures: Pictures) -> None:
    images = pictures(3, 72)
    whole = corrupt(images, name, 4, 3)
    assert torch.equal(torch.cat([corrupt(images[i : i + 1], name, 4, 3, first=i) for i in range(3)]), whole)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in NOT_RANDOM])
def test_seed_and_number_and_severity_decide_the_randomness(name: str, pictures: Pictures) -> None:
    same = pictures(1, 32).expand(3, 3, 32, 32)
    result = corrupt(same, name, 3, 0)
    assert torch.equal(result, corrupt(same, name, 3, 0))
    for other in (corrupt(same, name, 3, 1), corrupt(same, name, 3, 0, first=3), result.roll(1, 0)):
        assert all(not torch.equal(one, two) for one, two in zip(result, other, strict=True))


@pytest.mark.parametrize("name", sorted(NOT_RANDOM))
def test_the_others_give_the_same_for_every_seed(name: str, pictures: Pictures) -> None:
    assert torch.equal(corrupt(pictures(2, 32), name, 2, 0), corrupt(pictures(2, 32), name, 2, 1, first=9))


@pytest.mark.parametrize("side", [8, 28, 64, 65])
def test_every_corruption_takes_every_side(side: int, pictures: Pictures) -> None:
    images = pictures(2, side)
    for name in CORRUPTIONS:
        result = corrupt(images, name, 5, 0)
        assert (result.shape, result.dtype, result.is_contiguous()) == (images.shape, torch.uint8, True)
        assert not torch.equal(result, images)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_input_stays_as_it_is_and_may_have_any_strides(name: str, pictures: Pictures) -> None:
    images = pictures(3, 16)
    before = images.clone()
    result = corrupt(images, name, 2, 0)
    assert torch.equal(images, before)
    channels_last = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(corrupt(channels_last, name, 2, 0), result)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_photographs_of_32_px_change_more_with_severity(name: str, photographs: Photographs) -> None:
    _grows(photographs("cifar100", 100, 32), name, LEVEL_STEPS_SMALL.get(name, set()))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_photographs_of_224_px_change_more_with_severity(name: str, photographs: Photographs) -> None:
    count = 24 if name == "elastic_transform" else 4  # the affine map differs most between images
    _grows(photographs("imagenette", count, 224), name, LEVEL_STEPS_LARGE.get(name, set()))


def _grows(images: Tensor, name: str, level: set[tuple[int, int]]) -> None:
    changes = [float((corrupt(images, name, severity, 0).float() - images).abs().mean()) for severity in SEVERITIES]
    assert changes[0] > 1
    for severity in SEVERITIES[:-1]:
        if (severity, severity + 1) not in level:
            assert changes[severity] > changes[severity - 1], f"severity {severity} to {severity + 1}: {changes}"


def test_the_side_chooses_the_published_parameters() -> None:
    noise = CORRUPTIONS["gaussian_noise"]
    assert (noise.parameters(5, 32), noise.parameters(5, 64)) == (0.10, 0.10)
    assert (noise.parameters(5, 65), noise.parameters(5, 224)) == (0.38, 0.38)
    for corruption in CORRUPTIONS.values():
        assert len(corruption.small) == len(corruption.large) == len(SEVERITIES)


def test_no_images_are_no_error() -> None:
    nothing = torch.empty(0, 3, 32, 32, dtype=torch.uint8)
    assert all(corrupt(nothing, name, 1, 0).shape == nothing.shape for name in CORRUPTIONS)


def test_an_unknown_name_is_refused_with_the_nearest(pictures: Pictures) -> None:
    with pytest.raises(
        UsageError, match=r"(?s)corruption='motion_blurr'.*allowed: gaussian_noise.*did you mean 'motion_blur'"
    ):
        corrupt(pictures(1, 32), "motion_blurr", 1, 0)


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_a_severity_beyond_the_five_is_refused(severity: int, pictures: Pictures) -> None:
    with pytest.raises(UsageError, match=f"severity={severity}: allowed: 1, 2, 3, 4, 5"):
        corrupt(pictures(1, 32), "snow", severity, 0)


def test_a_negative_number_of_an_image_is_refused(pictures: Pictures) -> None:
    with pytest.raises(UsageError, match="first=-1"):
        corrupt(pictures(1, 32), "snow", 1, 0, first=-1)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 32, 32),
        torch.zeros(1, 1, 32, 32, dtype=torch.uint8),
        torch.zeros(3, 32, 32, dtype=torch.uint8),
        torch.zeros(1, 3, 32, 33, dtype=torch.uint8),
        torch.zeros(1, 3, 7, 7, dtype=torch.uint8),
    ],
)
def test_what_is_no_batch_of_square_byte_images_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"need images uint8 \(B, 3, S, S\)"):
        corrupt(images, "snow", 1, 0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_gpu_gives_what_the_cpu_gives(name: str, pictures: Pictures) -> None:
    for side in (32, 96):
        images = pictures(4, side)
        for severity in SEVERITIES:
            here = corrupt(images, name, severity, 0)
            there = corrupt(images.cuda(), name, severity, 0)
            assert there.is_cuda
            apart = (there.cpu().int() - here.int()).abs()
            assert (apart > 1).float().mean() < 1e-3
