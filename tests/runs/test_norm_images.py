"""The images that the batch-norm statistics of an average are measured on."""

import pytest
import torch

from groundup.basis.interruption import StopRequest
from groundup.data import MemoryLoader
from groundup.recipe import load_recipe
from groundup.runs.prepare import NORM_BATCHES, clean_images, open_data, with_measured_constants


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [
        (1, [2] * 74),  # 149 images: the odd one, which alone has no spread, is left out
        (2, [2] * 74),
        (40, [40, 40, 40, 29]),
        (500, [149]),
    ],
)
def test_every_batch_has_a_spread_whatever_evaluate_batch_size_says(batch_size: int, sizes: list[int]) -> None:
    recipe = load_recipe("digits", ["data.limit=149", f"evaluate.batch_size={batch_size}"])
    splits = open_data(recipe, StopRequest())
    loader = MemoryLoader(splits.train, torch.device("cpu"))
    shown = list(clean_images(with_measured_constants(recipe, splits), loader))
    assert [len(images) for images in shown] == sizes[:NORM_BATCHES]
