"""How fast a recipe trains here, and where the time goes, over a few real steps. Nothing is written."""

import time
from collections.abc import Callable
from typing import Any

import torch

from groundup import augment
from groundup.basis.interruption import StopRequest
from groundup.optim import apply_rates
from groundup.recipe import Recipe
from groundup.runs.folder import environment
from groundup.runs.prepare import build_job, build_network, make_plan, open_data, with_measured_constants
from groundup.training import choose_engine, train_step
from groundup.training.loop import batch_of


def bench(recipe: Recipe, steps: int = 5, stop: StopRequest | None = None) -> dict[str, Any]:
    """Train `steps` steps per input size of the run and measure them.

    Gives, per input size: images/s, TFLOP/s, `mfu` (share of a matrix product measured on the spot, in the run's precision) and
    the median seconds of a step and of its parts.
    """
    stop = stop or StopRequest()
    splits = open_data(recipe, stop)
    plan = make_plan(with_measured_constants(recipe, splits), splits)
    engine = choose_engine(recipe.train, plan.clock.total_steps)
    engine.activate()
    job, state = build_job(plan, engine, build_network(plan, engine), stop.check)
    ceiling = matrix_flops(engine.torch_device, engine.precision)
    sizes = []
    firsts = {
        job.live.at(step).resolution: step for step in sorted({0, *(s for s, _ in job.live.changes)}, reverse=True)
    }
    for first in sorted(firsts.values()):
        state.step = first
        train_step(job, state)  # warm-up of this input size
        times, counted = [], state.flops
        for _ in range(steps):
            stop.check()
            state.step = first
            times.append(_timed(lambda: train_step(job, state), engine.torch_device))
        seconds = sorted(times)[len(times) // 2]
        resolution = job.live.at(first).resolution
        work = (state.flops - counted) / steps  # SAM's second pass counts where the step makes it
        sizes.append(
            {
                "resolution": resolution,
                "images_per_second": recipe.train.batch_size / seconds,
                "tflops": work / seconds / 1e12,
                "mfu": work / seconds / ceiling,
                "seconds": {"step": seconds, **_by_part(job, state, first)},
            }
        )
    return {
        "recipe": recipe.name,
        "engine": engine.to_dict(),
        "matrix_tflops": ceiling / 1e12,
        "sizes": sizes,
        **environment(),
    }


def _by_part(job: Any, state: Any, step: int) -> dict[str, float]:
    """Seconds of the parts of one step, measured apart: gather and augmentation, optimizer; the rest is the network."""
    device = job.engine.torch_device
    live = job.live.at(step)

    def data_and_augmentation() -> None:
        indices, batch = batch_of(job, step)
        for part in [slice(0, len(indices))]:
            images = augment.apply(
                live.policy, job.data.take(indices[part])[0], augment.draw(live.policy, batch, step), part
            )
            augment.normalize(images, job.mean, job.std, live.resolution)

    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    apply_rates(state.optimizer, job.rates.at(step, state.schedule))
    optimizer = _timed(state.optimizer.step, device)
    state.optimizer.zero_grad(set_to_none=True)
    return {"data_and_augmentation": _timed(data_and_augmentation, device), "optimizer": optimizer}


def matrix_flops(device: torch.device, precision: str, size: int | None = None) -> float:
    """FLOP/s of a square matrix product on `device`, the best of five: the ceiling that `mfu` is measured against."""
    size = size or (8192 if device.type == "cuda" else 2048)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    _timed(lambda: a @ b, device)
    return 2 * size**3 / min(_timed(lambda: a @ b, device) for _ in range(5))


def _timed(call: Callable[[], Any], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
