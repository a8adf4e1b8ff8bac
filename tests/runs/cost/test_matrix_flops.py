"""The ceiling that MFU is measured against, and MFU itself."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from groundup.basis.interruption import Interrupted, StopRequest
from groundup.models import build_model, forward_flops
from groundup.recipe import load_recipe
from groundup.runs.cost import bench as bench_module
from groundup.runs.cost.bench import bench, matrix_flops

CPU = torch.device("cpu")


def test_the_ceiling_is_two_flops_per_product_at_the_best_of_five_without_the_warm_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = iter([0.01, 0.5, 0.4, 0.25, 0.7, 0.5])

    def timed(call: Callable[[], Any], device: torch.device) -> float:
        product = call()
        assert (product.shape, product.dtype) == ((16, 16), torch.bfloat16)
        return next(seconds)

    monkeypatch.setattr(bench_module, "_timed", timed)
    assert matrix_flops(CPU, "bf16", size=16) == 2 * 16**3 / 0.25


def test_mfu_is_three_forward_passes_per_image_over_the_ceiling(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_module, "matrix_flops", lambda device, precision: 2e12)
    recipe = load_recipe("digits", tiny)
    (size,) = bench(recipe, steps=1)["sizes"]
    flops = 3 * forward_flops(build_model(recipe.model, num_classes=10, seed=0), 8)
    assert size["tflops"] == pytest.approx(flops * size["images_per_second"] / 1e12)
    assert size["mfu"] == pytest.approx(size["tflops"] / 2)


def test_a_bench_that_is_told_to_stop_ends(tiny: list[str]) -> None:
    stop = StopRequest()
    stop.request("the test")
    with pytest.raises(Interrupted):
        bench(load_recipe("digits", tiny), stop=stop)
