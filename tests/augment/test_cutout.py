"""Cutout: an exact square inside, cut at the border, of the right colour, centred anywhere."""

from collections.abc import Callable

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from groundup.augment import Batch
from groundup.augment.cutout import Cutout, cutout
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]

RED = torch.tensor([[200, 10, 20]], dtype=torch.uint8)


def blanked(y: int, x: int, size: int, side: int = 16) -> Tensor:
    """bool (side, side): the pixels that were blanked in a white image."""
    white = torch.full((1, 3, side, side), 255, dtype=torch.uint8)
    result = cutout(white, torch.tensor([y]), torch.tensor([x]), RED, size=size)[0]
    changed = (result != 255).all(0)
    assert (result.permute(1, 2, 0)[changed] == RED).all()
    assert (result.permute(1, 2, 0)[~changed] == 255).all()
    return changed


@pytest.mark.parametrize("size", [1, 4, 5, 8])
def test_inside_the_image_the_square_has_its_full_area(size: int) -> None:
    changed = blanked(8, 7, size)
    assert changed.sum() == size * size
    rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
    assert (rows[0], columns[0]) == (8 - size // 2, 7 - size // 2)
    assert (len(rows), len(columns)) == (size, size)


@pytest.mark.parametrize(("y", "x", "rows", "columns"), [(0, 0, 4, 4), (15, 15, 5, 5), (0, 8, 4, 8), (13, 1, 7, 5)])
def test_at_the_border_the_square_is_cut(y: int, x: int, rows: int, columns: int) -> None:
    changed = blanked(y, x, 8)
    assert (int(changed.any(1).sum()), int(changed.any(0).sum())) == (rows, columns)
    assert changed.sum() == rows * columns


def test_a_square_larger_than_the_image_blanks_all_of_it() -> None:
    assert blanked(8, 8, 64).all()


def test_each_image_has_a_square_of_its_own(digit_images: Tensor) -> None:
    centres = torch.arange(64) % 16
    colours = torch.arange(192, dtype=torch.uint8).view(64, 3)
    together = cutout(digit_images, centres, centres.flip(0), colours, size=6)
    alone = [
        cutout(digit_images[i : i + 1], centres[i : i + 1], centres.flip(0)[i : i + 1], colours[i : i + 1], size=6)
        for i in range(64)
    ]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize(("fill", "colour"), [("mean", [102, 128, 153]), ("black", [0, 0, 0])])
def test_the_colour_is_the_mean_of_the_data_or_black(fill: str, colour: list[int], make_batch: MakeBatch) -> None:
    settings = Cutout.model_validate({"name": "cutout", "fill": fill})
    drawn = settings.draw(make_batch(), generator(0))
    assert drawn["fill"].dtype == torch.uint8
    assert (drawn["fill"] == torch.tensor(colour)).all()  # the mean 0.4, 0.5, 0.6 in bytes


def test_every_centre_is_equally_likely(make_batch: MakeBatch) -> None:
    drawn = Cutout(name="cutout").draw(make_batch(100_000, size=8), generator(0))
    counts = torch.bincount(drawn["y"] * 8 + drawn["x"], minlength=64)
    assert len(counts) == 64
    assert chisquare(counts.numpy()).pvalue > 1e-4
