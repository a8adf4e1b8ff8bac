"""Geometry equals Pillow's (nearest exactly, bilinear within 1 of 255), and its parameters are spread as the settings say."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from scipy.stats import kstest
from torch import Tensor

from groundup.augment import Batch
from groundup.augment.geometry import (
    RandomAffine,
    RandomRotation,
    ShiftScaleRotate,
    VerticalFlip,
    affine_matrix,
    sample,
    warp,
)
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]
Draw = Callable[[float, float], Tensor]


def drawer(count: int = 64) -> Draw:
    source = generator("test_geometry")
    return lambda low, high: torch.rand(count, generator=source) * (high - low) + low


def maps(size: int) -> dict[str, Tensor]:
    """64 matrices of each kind."""
    draw = drawer()
    return {
        "rotation": affine_matrix(size, angle=draw(-180, 180)),
        "shift": affine_matrix(size, translate=(draw(-9, 9), draw(-9, 9))),
        "shift by whole px": affine_matrix(size, translate=(draw(-9, 9).round(), draw(-9, 9).round())),
        "scale": affine_matrix(size, scale=draw(0.4, 2.5)),
        "shear": affine_matrix(size, shear=(draw(-0.3, 0.3), draw(-0.3, 0.3))),
        "all": affine_matrix(
            size,
            angle=draw(-90, 90),
            translate=(draw(-4, 4), draw(-4, 4)),
            scale=draw(0.7, 1.4),
            shear=(draw(-0.3, 0.3), draw(-0.3, 0.3)),
        ),
    }


def pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def from_pillow(images: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


def warped_by_pillow(images: Tensor, matrix: Tensor, fill: Tensor, interpolation: Image.Resampling) -> Tensor:
    return from_pillow(
        [
            pillow(image).transform(
                image.shape[:0:-1],
                Image.Transform.AFFINE,
                m.flatten().tolist(),
                interpolation,
                fillcolor=tuple(f.tolist()),
            )
            for image, m, f in zip(images, matrix, fill, strict=True)
        ]
    )


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """64 pieces of a photograph, uint8 (64, 3, 32, 32), as rich in detail as CIFAR's images."""
    from sklearn.datasets import load_sample_image

    pieces = []
    for name in ("flower.jpg", "china.jpg"):
        photo = torch.from_numpy(load_sample_image(name).copy())[64:320:2, 64:576:2]  # (128, 256, 3)
        pieces.append(photo.unfold(0, 32, 32).unfold(1, 32, 32).flatten(0, 1))  # (32, 3, 32, 32)
    return torch.cat(pieces).contiguous()


@pytest.fixture(scope="module")
def fill() -> Tensor:
    return torch.randint(0, 256, (64, 3), dtype=torch.uint8, generator=generator("fill"))


@pytest.mark.parametrize("kind", list(maps(32)))
def test_nearest_equals_pillow(kind: str, photos: Tensor, digit_images: Tensor, fill: Tensor) -> None:
    for images in (photos, digit_images):
        matrix = maps(images.shape[-1])[kind]
        expected = warped_by_pillow(images, matrix, fill, Image.Resampling.NEAREST)
        assert torch.equal(warp(images, matrix, interpolation="nearest", fill=fill), expected)


@pytest.mark.parametrize("kind", list(maps(32)))
def test_bilinear_differs_from_pillow_by_1_at_most(
    kind: str, photos: Tensor, digit_images: Tensor, fill: Tensor
) -> None:
    for images in (photos, digit_images):
        matrix = maps(images.shape[-1])[kind]
        expected = warped_by_pillow(images, matrix, fill, Image.Resampling.BILINEAR).int()
        difference = warp(images, matrix, fill=fill).int() - expected
        # Pillow cuts the fraction off, so that it is never brighter.
        assert {0} <= set(difference.unique().tolist()) <= {0, 1}


@pytest.mark.parametrize("kind", ["rotation", "shift", "scale", "all"])
def test_a_mirrored_border_equals_pillow_on_the_mirrored_image(kind: str, photos: Tensor) -> None:
    large = torch.nn.functional.pad(photos.float(), (31,) * 4, mode="reflect").to(torch.uint8)
    matrix = maps(32)[kind].clone()
    if kind == "all":
        matrix[..., :2] *= 0.9  # so that nothing lies beyond the mirrored image
    shifted = matrix.clone()  # the same map for an image whose corner lies 31 px further up and left
    shifted[..., 2] += 31 - matrix[..., :2].sum(-1) * 31
    black = torch.zeros(64, 3, dtype=torch.uint8)
    inner = (slice(None), slice(None), slice(31, 63), slice(31, 63))
    # Pillow adds up its rounded steps from another corner here, so that a few nearest pixels on an edge differ.
    for interpolation, way, most, share in (
        ("nearest", Image.Resampling.NEAREST, 0, 1e-3),
        ("bilinear", Image.Resampling.BILINEAR, 1, 0),
    ):
        expected = warped_by_pillow(large, shifted, black, way)[inner].int()
        difference = warp(photos, matrix, interpolation=interpolation, fill="reflect").int() - expected
        assert (difference.abs() > most).float().mean() <= share, interpolation


def test_rotation_is_pillows_rotate(photos: Tensor, fill: Tensor) -> None:
    angles = drawer()(-180, 180)
    rotated = warp(photos, affine_matrix(32, angle=angles), fill=fill).int()
    expected = from_pillow(
        [
            pillow(image).rotate(angle, Image.Resampling.BILINEAR, fillcolor=tuple(colour.tolist()))
            for image, angle, colour in zip(photos, angles.tolist(), fill, strict=True)
        ]
    )
    assert (rotated - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("border", ["colour", "reflect"])
def test_maps_without_fractions_move_whole_pixels(
    interpolation: str, border: str, photos: Tensor, fill: Tensor
) -> None:
    def moved(**change: Any) -> Tensor:
        kind: Any = "reflect" if border == "reflect" else fill
        return warp(photos, affine_matrix(32, **change), interpolation=interpolation, fill=kind)

    ones = torch.ones(64)
    assert torch.equal(moved(scale=ones), photos)
    assert torch.equal(moved(angle=90 * ones), photos.rot90(1, (2, 3)))
    assert torch.equal(moved(angle=180 * ones), photos.flip(2, 3))
    right = moved(translate=(5 * ones, -2 * ones))  # to the right and up
    assert torch.equal(right[:, :, :-2, 5:], photos[:, :, 2:, :-5])
    outside = photos[:, :, 2:, 1:6].flip(3) if border == "reflect" else fill[:, :, None, None].expand(-1, -1, 30, 5)
    assert torch.equal(right[:, :, :-2, :5], outside)


def test_the_parts_of_a_map_are_done_in_torchvisions_order() -> None:
    draw = drawer()
    angle, dx, dy, scale, kx, ky = (
        draw(*limits) for limits in [(-90, 90), (-5, 5), (-5, 5), (0.5, 2), (-1, 1), (-1, 1)]
    )
    one, zero = torch.ones(64), torch.zeros(64)
    turn = torch.deg2rad(-angle)  # clockwise, as torchvision counts

    def square(*entries: Tensor) -> Tensor:
        return torch.stack(entries, -1).view(-1, 3, 3).double()

    centre = square(one, zero, 16 * one, zero, one, 16 * one, zero, zero, one)
    rotate = square(turn.cos(), -turn.sin(), zero, turn.sin(), turn.cos(), zero, zero, zero, one)
    shear_y = square(one, zero, zero, -ky, one, zero, zero, zero, one)
    shear_x = square(one, -kx, zero, zero, one, zero, zero, zero, one)
    enlarge = square(scale, zero, zero, zero, scale, zero, zero, zero, one)
    move = square(one, zero, dx, zero, one, dy, zero, zero, one)
    forward = move @ centre @ rotate @ enlarge @ shear_y @ shear_x @ centre.inverse()
    matrix = affine_matrix(32, angle=angle, translate=(dx, dy), scale=scale, shear=(kx, ky)).double()
    torch.testing.assert_close(matrix, forward.inverse()[:, :2], atol=1e-4, rtol=1e-4)


def test_a_map_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one of angle, translate, scale, shear"):
        affine_matrix(32)


def test_images_need_not_be_square(photos: Tensor, fill: Tensor) -> None:
    wide, matrix = photos[:, :, :20].contiguous(), maps(32)["all"]
    assert torch.equal(
        warp(wide, matrix, interpolation="nearest", fill=fill),
        warped_by_pillow(wide, matrix, fill, Image.Resampling.NEAREST),
    )


def test_at_pixel_centres_a_sample_is_the_pixel(photos: Tensor) -> None:
    centres = (torch.arange(32) + 0.5).expand(64, 32, 32)
    for reflect in (False, True):
        assert torch.equal(sample(photos, centres, centres.mT, reflect=reflect), photos)


def spread_evenly(values: Tensor, low: float, high: float) -> bool:
    assert low <= values.min() <= values.max() <= high
    return bool(kstest(values.numpy(), "uniform", args=(low, high - low)).pvalue > 1e-4)


def test_rotation_draws_angles_evenly_between_its_limits(make_batch: MakeBatch) -> None:
    drawn = RandomRotation(name="random_rotation", degrees=20).draw(make_batch(20_000), generator(0))
    assert spread_evenly(drawn["angle"], -20, 20)
    assert drawn["chosen"].all()


def test_shift_scale_rotate_draws_each_part_evenly_and_on_its_own(make_batch: MakeBatch) -> None:
    settings = ShiftScaleRotate(name="shift_scale_rotate", shift_limit=0.25, scale_limit=0.2, rotate_limit=30, p=0.3)
    drawn = settings.draw(make_batch(20_000, size=32), generator(0))
    for key, low, high in (("dx", -8, 8), ("dy", -8, 8), ("scale", 0.8, 1.2), ("angle", -30, 30)):
        assert spread_evenly(drawn[key], low, high), key
    parts = torch.stack([drawn[key].double() for key in ("dx", "dy", "scale", "angle")])
    assert (torch.corrcoef(parts) - torch.eye(4)).abs().max() < 5 / 20_000**0.5
    assert abs(drawn["chosen"].double().mean() - 0.3) < 5 * (0.21 / 20_000) ** 0.5


def test_affine_draws_each_part_evenly_and_shifts_by_whole_pixels(make_batch: MakeBatch) -> None:
    settings = RandomAffine(
        name="random_affine", degrees=25, translate=(0.25, 0.5), scale=(0.5, 2), shear=40, shear_y=10
    )
    drawn = settings.draw(make_batch(20_000, size=16), generator(0))
    assert spread_evenly(drawn["angle"], -25, 25)
    assert spread_evenly(drawn["scale"], 0.5, 2)
    assert spread_evenly(torch.rad2deg(drawn["shear_x"].atan()), -40.001, 40.001)
    assert spread_evenly(torch.rad2deg(drawn["shear_y"].atan()), -10.001, 10.001)
    assert drawn["dx"].unique().tolist() == list(range(-4, 5))
    assert drawn["dy"].unique().tolist() == list(range(-8, 9))
    inner = drawn["dx"][drawn["dx"].abs() < 4]  # the outermost are drawn half as often
    assert abs(inner.double().mean()) < 5 * 2 / len(inner) ** 0.5


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (RandomRotation, {"name": "random_rotation", "degrees": 60}),
        (ShiftScaleRotate, {"name": "shift_scale_rotate", "p": 1, "fill": "black"}),
        (RandomAffine, {"name": "random_affine", "shear": 30, "shear_y": 20}),
    ],
)
def test_an_operation_is_the_warp_of_what_it_drew(
    kind: Any, settings: dict[str, Any], photos: Tensor, make_batch: MakeBatch
) -> None:
    operation = kind.model_validate(settings)
    drawn = operation.draw(make_batch(size=32), generator(0))
    parts: dict[str, Any] = {key: drawn[key] for key in ("angle", "scale") if key in drawn}
    if "dx" in drawn:
        parts["translate"] = (drawn["dx"], drawn["dy"])
    if "shear_x" in drawn:
        parts["shear"] = (drawn["shear_x"], drawn["shear_y"])
    expected = warped_by_pillow(photos, affine_matrix(32, **parts), drawn["fill"], Image.Resampling.BILINEAR)
    assert (operation.apply(photos, drawn).int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(("kind", "colour"), [("mean", [102, 128, 153]), ("black", [0, 0, 0])])
def test_what_lies_outside_shows_the_mean_or_black(kind: str, colour: list[int], make_batch: MakeBatch) -> None:
    settings = RandomRotation.model_validate({"name": "random_rotation", "fill": kind})
    assert (settings.draw(make_batch(), generator(0))["fill"] == torch.tensor(colour)).all()


def test_vertical_flip_mirrors_top_and_bottom_of_a_share_of_p(digit_images: Tensor, make_batch: MakeBatch) -> None:
    settings = VerticalFlip(name="vertical_flip", p=0.3)
    drawn = settings.draw(make_batch(), generator(0))
    chosen = drawn["chosen"]
    result = settings.apply(digit_images, drawn)
    assert 0 < chosen.sum() < 64
    assert torch.equal(result[chosen], digit_images[chosen].flip(2))
    assert torch.equal(result[~chosen], digit_images[~chosen])
    share = settings.draw(make_batch(20_000), generator(0))["chosen"].double().mean()
    assert abs(share - 0.3) < 5 * (0.21 / 20_000) ** 0.5


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (RandomRotation, {"degrees": 0}, "greater than 0"),
        (RandomRotation, {"degrees": 181}, "less than or equal to 180"),
        (ShiftScaleRotate, {"shift_limit": 0, "scale_limit": 0, "rotate_limit": 0}, "change nothing"),
        (ShiftScaleRotate, {"scale_limit": 1}, "less than 1"),
        (RandomAffine, {"degrees": 0, "translate": [0, 0], "scale": [1, 1], "shear": 0}, "change nothing"),
        (RandomAffine, {"scale": [1.2, 0.8]}, r"scale=\[1.2, 0.8\].* write \[0.8, 1.2\]"),
        (RandomAffine, {"scale": [0, 1]}, "greater than 0"),
        (RandomAffine, {"translate": [4, 4]}, "less than or equal to 1"),
        (VerticalFlip, {"p": 0}, "greater than 0"),
    ],
)
def test_settings_that_cannot_act_or_make_no_sense_are_refused(
    kind: Any, settings: dict[str, Any], message: str
) -> None:
    name = kind.model_fields["name"].annotation.__args__[0]
    with pytest.raises(ValidationError, match=message):
        kind.model_validate({"name": name, **settings})
