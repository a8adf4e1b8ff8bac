"""Images to augment, and what a policy may know of their batch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from groundup.augment import Batch

MakeBatch = Callable[..., Batch]


@pytest.fixture(scope="session")
def digit_images() -> Tensor:
    """64 scanned digits, enlarged to uint8 (64, 3, 16, 16), each channel a little different."""
    from sklearn.datasets import load_digits

    grey = torch.from_numpy(load_digits().images[:64]).float() / 16  # (64, 8, 8) in [0, 1]
    large = torch.nn.functional.interpolate(grey[:, None], size=16, mode="bilinear")
    colour = torch.tensor([255.0, 230.0, 200.0]).view(3, 1, 1)
    return (large * colour).round().to(torch.uint8)


@pytest.fixture
def make_batch() -> MakeBatch:
    """make_batch(count, epoch=, seed=, size=): the batch of the first `count` images."""

    def make(count: int = 64, *, epoch: int = 0, seed: int = 0, size: int = 16) -> Batch:
        return Batch(torch.arange(count), epoch, seed, size, (0.4, 0.5, 0.6), torch.device("cpu"))

    return make
