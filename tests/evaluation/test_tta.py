"""Every view is the one it is said to be, weighs what it is said to weigh, and costs what it is said to cost."""

import pytest
import torch
from torch import Tensor, nn

from groundup.basis.errors import UsageError
from groundup.evaluation import TTA, TTA_COST, ensemble_cost


class Recorder(nn.Module):
    """Gives the pixels themselves as logits, and remembers the strides of what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.strides: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.strides.append(images.stride())
        return images.flatten(1)


IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def logits(name: str, images: Tensor = IMAGES) -> Tensor:
    return TTA[name](Recorder(), images)


@pytest.mark.parametrize("name", TTA)
def test_the_stated_cost_is_the_number_of_forward_passes(name: str) -> None:
    model = Recorder()
    assert TTA[name](model, IMAGES).shape == (2, 3 * 16 * 16)
    assert len(model.strides) == TTA_COST[name]


def test_every_augmentation_has_a_cost() -> None:
    assert set(TTA) == set(TTA_COST)


@pytest.mark.parametrize("name", sorted(set(TTA) - {"flip"}))
def test_every_view_has_the_layout_of_the_images(name: str) -> None:
    images = IMAGES.to(memory_format=torch.channels_last)
    model = Recorder()
    TTA[name](model, images)
    assert set(model.strides) == {images.stride()}


@pytest.mark.parametrize("name", TTA)
def test_an_even_image_gives_the_same_logits_under_every_augmentation(name: str) -> None:
    even = torch.full((2, 3, 16, 16), 0.3)
    torch.testing.assert_close(logits(name, even), logits("none", even))


@pytest.mark.parametrize("name", TTA)
def test_logits_in_half_precision_are_averaged_in_float32(name: str) -> None:
    expected = torch.bfloat16 if name == "none" else torch.float32
    assert logits(name, IMAGES.bfloat16()).dtype == expected


def test_translate_weighs_the_image_half_and_two_shifts_a_quarter_each() -> None:
    images = torch.zeros(1, 1, 32, 32)
    images[..., 10, 20] = 1
    expected = torch.zeros(32, 32)
    expected[10, 20], expected[11, 21], expected[9, 19] = 0.5, 0.25, 0.25
    assert torch.equal(logits("translate", images).view(32, 32), expected)


def test_translate_mirrors_the_image_at_its_border() -> None:
    images = torch.arange(16.0).view(1, 1, 4, 4)
    down_right, up_left = images[0, 0][[1, 0, 1, 2]][:, [1, 0, 1, 2]], images[0, 0][[1, 2, 3, 2]][:, [1, 2, 3, 2]]
    torch.testing.assert_close(logits("translate", images).view(4, 4), images[0, 0] / 2 + (down_right + up_left) / 4)


def test_a_larger_image_is_shifted_further() -> None:
    images = torch.zeros(1, 1, 64, 64)
    images[..., 10, 20] = 1
    assert logits("translate", images).view(64, 64).nonzero().tolist() == [[8, 18], [10, 20], [12, 22]]


def test_flip_translate_adds_the_mirror_of_every_view() -> None:
    straight = logits("translate").view_as(IMAGES)
    torch.testing.assert_close(logits("flip_translate").view_as(IMAGES), (straight + straight.flip(3)) / 2)


def test_multi_crop_sees_four_corners_and_the_centre() -> None:
    images = torch.zeros(1, 1, 16, 16)
    images[..., 0, 0] = 1  # in one crop of five only, at its corner, and in that crop's mirror
    seen = logits("multi_crop", images).view(16, 16)
    torch.testing.assert_close(seen, seen.flip(1))
    assert float(seen[0, 0]) == pytest.approx(0.1)
    assert float(seen[8:].abs().sum()) == 0
    inside = torch.zeros(1, 1, 16, 16)
    inside[..., 7:9, 7:9] = 1  # in all of them
    assert float(logits("multi_crop", inside).sum()) == pytest.approx(4 * (16 / 14) ** 2, rel=0.05)


def test_the_cost_of_an_ensemble_is_the_sum_over_its_members() -> None:
    assert ensemble_cost(["none", "flip", "flip_translate"]) == 9
    with pytest.raises(UsageError, match="did you mean 'flip'"):
        ensemble_cost(["flop"])
