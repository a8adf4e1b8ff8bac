"""The operations of the automatic policies: Pillow's at every magnitude, one of its own for each image."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from groundup.augment.augmix import operations as augmix_space
from groundup.augment.auto_augment import operations as auto_augment_space
from groundup.augment.geometry import Interpolation
from groundup.augment.rand_augment import moderate
from groundup.augment.space import GEOMETRIC, NAMES, PLACES, on_all, on_groups, perform, tables
from groundup.augment.trivial_augment_wide import WIDE
from groundup.basis.seeding import generator

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def real_images(digit_images: Tensor) -> list[Tensor]:
    """uint8 (3, 3, 16, 16) digits and (2, 3, 32, 32) smooth colours: one of all levels, one of few."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij")
    wide = torch.stack([x, y, (x + y) / 2]) * 255
    narrow = (
        torch.stack([(6 * x).sin(), (5 * y).cos(), (7 * x * y).sin()]) * 60
        + torch.tensor([90.0, 120, 150])[:, None, None]
    )
    return [digit_images[:3], torch.stack([wide, narrow]).round().to(torch.uint8)]


def pillow(name: str, image: Image.Image, magnitude: float, resample: Image.Resampling) -> Image.Image:
    """What torchvision does to a Pillow image."""

    def transform(*matrix: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample)

    match name:
        case "Identity":
            return image
        case "ShearX":
            return transform(1, magnitude, 0, 0, 1, 0)
        case "ShearY":
            return transform(1, 0, 0, magnitude, 1, 0)
        case "TranslateX":
            return transform(1, 0, -int(magnitude), 0, 1, 0)
        case "TranslateY":
            return transform(1, 0, 0, 0, 1, -int(magnitude))
        case "Rotate":
            return image.rotate(magnitude, resample)
        case "Brightness" | "Color" | "Contrast" | "Sharpness":
            return getattr(ImageEnhance, name)(image).enhance(1 + magnitude)
        case "Posterize":
            return ImageOps.posterize(image, int(magnitude)) if magnitude else image.point(lambda _: 0)
        case "Solarize":
            return ImageOps.solarize(image, magnitude)
        case "AutoContrast":
            return ImageOps.autocontrast(image)
        case "Equalize":
            return ImageOps.equalize(image)
    return ImageOps.invert(image)


def differences(name: str, images: Tensor, magnitudes: Tensor, interpolation: Interpolation) -> Tensor:
    """Grey levels between ours and Pillow's, int64 (len(magnitudes) * len(images), 3, S, S)."""
    many = images.repeat(len(magnitudes), 1, 1, 1)
    each = magnitudes.repeat_interleave(len(images))
    ours = perform(
        many, torch.full_like(each, PLACES[name], dtype=torch.int64), each, among=[name], interpolation=interpolation
    )
    resample = Image.Resampling[interpolation.upper()]
    theirs = [
        np.asarray(pillow(name, Image.fromarray(image.permute(1, 2, 0).numpy()), float(magnitude), resample))
        for image, magnitude in zip(many, each, strict=True)
    ]
    return (ours.long() - torch.from_numpy(np.stack(theirs)).permute(0, 3, 1, 2).long()).abs()


def magnitudes_of(name: str) -> Tensor:
    """All magnitudes of `name` in all spaces, with both signs where it has them, for images of 32 px."""
    found = []
    for space, bins in ((WIDE, 31), (auto_augment_space(32), 10), (moderate(32), 31), (augmix_space(32, True), 10)):
        for scale in space:
            if scale.name == name:
                values = scale.magnitudes(bins)
                found += [values, -values] if scale.signed else [values]
    return torch.cat(found).unique()


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_gives_pillows_bytes_at_every_magnitude(name: str, real_images: list[Tensor]) -> None:
    for images in real_images:
        assert differences(name, images, magnitudes_of(name), "nearest").max() == 0


@pytest.mark.parametrize("name", GEOMETRIC)
def test_between_pixels_geometry_is_pillows_to_one_grey_level(name: str, real_images: list[Tensor]) -> None:
    for images in real_images:
        far = (differences(name, images, magnitudes_of(name), "bilinear") > 1).any(1).double().mean((1, 2))
        # A place exactly on the border of the image may count as inside or outside.
        assert far.mean() < 0.001
        assert far.max() < 0.01


@pytest.fixture(scope="session")
def crowd() -> tuple[Tensor, Tensor, Tensor]:
    """300 images of noise under a slope, and an operation and magnitude for each: all of them occur."""
    random = generator("crowd")
    slope = torch.arange(16) * 8
    images = (torch.randint(0, 120, (300, 3, 16, 16), generator=random) + slope).to(torch.uint8)
    bins = torch.randint(10, (300,), generator=random)
    drawn = tables(auto_augment_space(16), 10, CPU).choose(torch.arange(300) % 15, bins, torch.arange(300) % 2 == 0)
    return images, drawn["operation"], drawn["magnitude"]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_a_gpus_way_and_a_cpus_way_agree(crowd: tuple[Tensor, Tensor, Tensor], interpolation: Interpolation) -> None:
    images, operation, magnitude = crowd
    assert torch.equal(
        on_all(images, operation, magnitude, NAMES, interpolation),
        on_groups(images, operation, magnitude, interpolation),
    )


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_off_the_cpu_no_step_asks_for_a_value(
    crowd: tuple[Tensor, Tensor, Tensor], interpolation: Interpolation
) -> None:
    # Tensors on `meta` have shapes and no values: what would make the host wait for a GPU raises there.
    images, operation, magnitude = (each.to("meta") for each in crowd)
    result = perform(images, operation, magnitude, among=NAMES, interpolation=interpolation)
    assert (result.device.type, result.shape, result.dtype) == ("meta", images.shape, torch.uint8)


def test_each_image_gets_its_own_operation_and_magnitude(crowd: tuple[Tensor, Tensor, Tensor]) -> None:
    images, operation, magnitude = crowd
    together = on_groups(images, operation, magnitude, "nearest")
    alone = [
        on_groups(images[i : i + 1], operation[i : i + 1], magnitude[i : i + 1], "nearest") for i in range(len(images))
    ]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together[operation == 0], images[operation == 0])


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one_operation_and_an_empty_one_pass(name: str, crowd: tuple[Tensor, Tensor, Tensor]) -> None:
    images, before = crowd[0][:4], crowd[0][:4].clone()
    for count in (4, 0):
        operation, magnitude = torch.full((count,), PLACES[name]), torch.full((count,), 3.0)
        result = on_groups(images[:count], operation, magnitude, "nearest")
        assert (result.shape, result.dtype) == (images[:count].shape, torch.uint8)
    assert torch.equal(images, before)


def test_shears_keep_the_corner_and_rotations_turn_counter_clockwise() -> None:
    image = torch.zeros((1, 3, 9, 9), dtype=torch.uint8)
    image[..., 0, 0] = 200  # top left
    image[..., 4, 8] = 100  # middle of the right side
    for name in ("ShearX", "ShearY"):
        assert (
            perform(image, torch.tensor([PLACES[name]]), torch.tensor([0.3]), among=[name], interpolation="nearest")[
                0, 0, 0, 0
            ]
            == 200
        )
    turned = perform(
        image, torch.tensor([PLACES["Rotate"]]), torch.tensor([90.0]), among=["Rotate"], interpolation="nearest"
    )
    assert turned[0, 0, 0, 4] == 100
    assert turned[0, 0, 8, 0] == 200


def test_the_wide_space_has_the_ranges_of_the_paper() -> None:
    scales = {scale.name: scale for scale in WIDE}
    assert list(scales) == list(NAMES[:14])
    ends = {name: (float(scale.magnitudes(31)[0]), float(scale.magnitudes(31)[-1])) for name, scale in scales.items()}
    assert ends["ShearX"] == ends["ShearY"] == pytest.approx((0, 0.99))
    assert ends["TranslateX"] == ends["TranslateY"] == (0, 32)
    assert ends["Rotate"] == (0, 135)
    assert all(ends[name] == pytest.approx((0, 0.99)) for name in ("Brightness", "Color", "Contrast", "Sharpness"))
    assert ends["Posterize"] == (8, 2)
    assert ends["Solarize"] == (255, 0)
    assert {name for name, scale in scales.items() if scale.signed} == set(NAMES[1:10])


def test_magnitudes_that_have_to_be_whole_are() -> None:
    scales = {scale.name: scale for scale in moderate(32)}
    assert scales["Posterize"].magnitudes(10).tolist() == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]
    largest = 150 / 331 * 32
    assert scales["TranslateX"].magnitudes(31).tolist() == [math.floor(largest * i / 30) for i in range(31)]


def test_translations_follow_the_size_of_the_images_except_in_the_wide_space() -> None:
    def strongest(space: tuple) -> float:  # type: ignore[type-arg]
        return next(float(scale.magnitudes(10)[-1]) for scale in space if scale.name == "TranslateY")

    assert [strongest(moderate(size)) for size in (32, 64, 224)] == [14, 29, 101]
    assert [strongest(augmix_space(size, False)) for size in (32, 64, 224)] == [10, 21, 74]
