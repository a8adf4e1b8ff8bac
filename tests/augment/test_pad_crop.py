"""Pad-crop gives every window of the padded image, and each of them equally often."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from torch import Tensor

from groundup.augment import Batch
from groundup.augment.pad_crop import PadCrop, pad_crop
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]


def every_offset(pad: int) -> tuple[Tensor, Tensor]:
    dy, dx = torch.meshgrid(torch.arange(2 * pad + 1), torch.arange(2 * pad + 1), indexing="ij")
    return dy.flatten(), dx.flatten()


@pytest.mark.parametrize("pad", [1, 4, 7])
@pytest.mark.parametrize(("mode", "torch_mode"), [("zero", "constant"), ("reflect", "reflect")])
def test_it_equals_padding_and_slicing_for_every_offset(pad: int, mode: str, torch_mode: str) -> None:
    dy, dx = every_offset(pad)
    images = torch.randint(0, 256, (len(dy), 3, 8, 8), dtype=torch.uint8, generator=generator(pad))
    padded = F.pad(images.float(), (pad,) * 4, mode=torch_mode).to(torch.uint8)
    expected = torch.stack([p[:, y : y + 8, x : x + 8] for p, y, x in zip(padded, dy, dx, strict=True)])
    assert torch.equal(pad_crop(images, dy, dx, pad=pad, mode=mode), expected)


def test_images_need_not_be_square_or_bytes() -> None:
    images = torch.randn(2, 1, 5, 9, generator=generator(0))
    dy, dx = torch.tensor([0, 3]), torch.tensor([4, 1])
    padded = F.pad(images, (2, 2, 2, 2))
    expected = torch.stack([padded[0, :, 0:5, 4:13], padded[1, :, 3:8, 1:10]])
    assert torch.equal(pad_crop(images, dy, dx, pad=2), expected)


def test_the_middle_offset_is_the_image_itself(digit_images: Tensor) -> None:
    middle = torch.full((64,), 4)
    assert torch.equal(pad_crop(digit_images, middle, middle, pad=4), digit_images)


def test_every_window_is_equally_likely(make_batch: MakeBatch) -> None:
    drawn = PadCrop(name="pad_crop", pad=2).draw(make_batch(50_000), generator(0))
    counts = torch.bincount(drawn["dy"] * 5 + drawn["dx"], minlength=25)
    assert len(counts) == 25
    assert chisquare(counts.numpy()).pvalue > 1e-4
