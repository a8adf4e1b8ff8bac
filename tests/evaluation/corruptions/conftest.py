"""Images to corrupt: made ones, with smooth parts, edges and noise; and photographs."""

import functools
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from groundup.basis.seeding import generator

Photographs = Callable[[str, int, int], Tensor]


@pytest.fixture
def pictures() -> Callable[[int, int], Tensor]:
    """(count, side) -> uint8 (count, 3, side, side): a slope, a bright square and noise, in colour."""

    def make(count: int, side: int) -> Tensor:
        random = generator("pictures", side)
        slope = torch.linspace(0, 1, side)
        levels = torch.rand(count, 3, 1, 1, generator=random) * 120 + 60 * (slope + slope[:, None])
        levels[:, :, side // 4 : side // 2, side // 3 : -side // 5] += 70
        levels += torch.randn(count, 3, side, side, generator=random) * 12
        levels[0, :, :2] = 0  # black and white too
        levels[0, :, -2:] = 255
        return levels.clamp(0, 255).byte()

    return make


@pytest.fixture
def photographs(datasets_folder: Path) -> Photographs:
    """(data set, count, side) -> uint8 (count, 3, side, side): the middle of real images, from all over the file."""

    def read(dataset: str, count: int, side: int) -> Tensor:
        split = {"cifar100": "test", "imagenette": "validation"}[dataset]
        return _photographs(next((datasets_folder / dataset).glob(f"{split}-*.parquet")), count, side)

    return read


@functools.cache
def _photographs(path: Path, count: int, side: int) -> Tensor:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        name = next(column for column in file.schema_arrow.names if column in ("img", "image"))
        rows = next(file.iter_batches(batch_size=8 * count, columns=[name])).column(0).to_pylist()[::8]
    images = [ImageOps.fit(Image.open(io.BytesIO(row["bytes"])).convert("RGB"), (side, side)) for row in rows]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
