"""CutMix: the box that was asked for, cut at the border, pasted pixel for pixel, and its area counted exactly."""

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from groundup.augment.mixing import CutMixSettings
from groundup.augment.mixing.cutmix import boxes, cutmix, share_left
from groundup.basis.seeding import generator


def box_of(lam: float, y: int, x: int, size: int) -> list[int]:
    return boxes(torch.tensor([lam], dtype=torch.float64), torch.tensor([[y], [x]]), size)[0].tolist()


@pytest.mark.parametrize(("lam", "side"), [(0.75, 16), (0.0, 32), (1.0, 0), (0.9, 10), (0.99999, 0)])
def test_the_side_is_the_root_of_what_is_replaced(lam: float, side: int) -> None:
    y0, y1, x0, x1 = box_of(lam, 16, 16, 32)  # 32 sqrt(1 - 0.9) = 10.1
    assert (y1 - y0, x1 - x0) == (side, side)
    assert (y0, x0) == (16 - side // 2, 16 - side // 2)


@pytest.mark.parametrize(
    ("y", "x", "box"), [(0, 16, [0, 8, 8, 24]), (31, 0, [23, 32, 0, 8]), (30, 31, [22, 32, 23, 32])]
)
def test_at_the_border_the_box_is_cut(y: int, x: int, box: list[int]) -> None:
    assert box_of(0.75, y, x, 32) == box


def test_the_share_that_is_left_is_counted_after_cutting() -> None:
    box = boxes(torch.full((3,), 0.75, dtype=torch.float64), torch.tensor([[16, 0, 0], [16, 16, 0]]), 32)
    assert share_left(box, 32).tolist() == [0.75, 1 - 8 * 16 / 1024, 1 - 8 * 8 / 1024]


def test_each_image_gets_the_box_of_its_partner_and_keeps_the_rest(digit_images: Tensor) -> None:
    partners = digit_images.flip(0)
    drawn = CutMixSettings(name="cutmix").draw(64, 16, generator(3))
    mixed = cutmix(digit_images, partners, drawn.box)
    for image, partner, (y0, y1, x0, x1), result in zip(digit_images, partners, drawn.box.tolist(), mixed, strict=True):
        expected = image.clone()
        expected[:, y0:y1, x0:x1] = partner[:, y0:y1, x0:x1]
        assert torch.equal(result, expected)


def test_an_empty_box_changes_nothing(digit_images: Tensor) -> None:
    empty = torch.tensor([[0, 0, 0, 0], [5, 5, 2, 9]]).repeat(32, 1)
    assert torch.equal(cutmix(digit_images, digit_images.flip(0), empty), digit_images)


def test_every_centre_is_equally_likely() -> None:
    # With an alpha this large every box has the same side, 0.5 ** 0.5 of 8: 6 px, so its edges tell the centre.
    drawn = CutMixSettings(name="cutmix", alpha=1e6).draw(50_000, 8, generator(0))
    y0, y1, x0, x1 = drawn.box.unbind(1)
    y, x = (torch.where(first > 0, first + 3, last - 3) for first, last in ((y0, y1), (x0, x1)))
    counts = torch.bincount(y * 8 + x, minlength=64)
    assert len(counts) == 64
    assert chisquare(counts.numpy()).pvalue > 1e-4
