"""Collecting logits leaves the model as it was and the order as it came."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from groundup.basis.errors import GroundupError
from groundup.basis.interruption import Interrupted
from groundup.evaluation import TTA, collect_logits


class Small(nn.Module):
    """A convolution, a batch norm kept frozen, dropout, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4 * 6 * 6, 5)
        self.shapes: list[torch.Size] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shapes.append(images.shape)
        return self.head(self.drop(self.norm(self.conv(images)).relu()).flatten(1))


@pytest.fixture
def model() -> Small:
    torch.manual_seed(0)
    return Small()


IMAGES = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(10, dtype=torch.int32) % 5


def batches(size: int = 4) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(IMAGES.split(size), LABELS.split(size), strict=True)


def test_logits_and_labels_come_in_order_as_float32_and_int64(model: Small) -> None:
    logits, labels = collect_logits(model, batches())
    assert (logits.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert labels.tolist() == LABELS.tolist()
    assert not logits.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(logits, model.eval()(IMAGES))


def test_every_module_is_back_in_its_own_mode_and_statistics_are_untouched(model: Small) -> None:
    model.train()
    model.norm.eval()
    before = model.norm.running_mean.clone()
    collect_logits(model, batches())
    assert (model.training, model.norm.training, model.drop.training) == (True, False, True)
    assert torch.equal(model.norm.running_mean, before)


def test_the_mode_is_restored_when_the_evaluation_is_interrupted(model: Small) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Interrupted("SIGTERM", 143)

    model.train()
    with pytest.raises(Interrupted):
        collect_logits(model, batches(), check=check)
    assert len(model.shapes) == 1
    assert model.training
    assert model.drop.training


def test_flip_is_the_mean_of_the_logits_of_the_image_and_its_mirror(model: Small) -> None:
    straight, _ = collect_logits(model, batches())
    mirrored, _ = collect_logits(model, [(IMAGES.flip(3), LABELS)])
    both, _ = collect_logits(model, batches(), forward=TTA["flip"])
    torch.testing.assert_close(both, (straight + mirrored) / 2)
    assert not torch.allclose(both, straight)


def test_flip_of_mirrored_images_gives_the_same_logits(model: Small) -> None:
    both, _ = collect_logits(model, batches(), forward=TTA["flip"])
    again, _ = collect_logits(model, [(IMAGES.flip(3), LABELS)], forward=TTA["flip"])
    torch.testing.assert_close(both, again)


def test_the_forward_pass_runs_in_the_given_precision(model: Small) -> None:
    exact, _ = collect_logits(model, batches())
    coarse, _ = collect_logits(model, batches(), autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    assert coarse.dtype == torch.float32
    assert torch.equal(coarse, coarse.bfloat16().float())
    assert not torch.equal(coarse, exact)


def test_an_empty_split_is_a_clear_error(model: Small) -> None:
    with pytest.raises(GroundupError, match="0 batches"):
        collect_logits(model, [])
