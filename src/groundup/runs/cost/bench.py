"""How fast a recipe trains here, where the time goes, and what to change, over a few real steps.

Nothing is written but the trace that was asked for. MFU ("model FLOPs utilisation") is the share of the rate of a large matrix
product measured on the spot, in the run's precision, not of a data sheet.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from groundup.basis.errors import UsageError
from groundup.basis.files import whole_file
from groundup.basis.interruption import StopRequest
from groundup.recipe import Recipe
from groundup.runs.cost.advice import advice
from groundup.runs.cost.batch_size import with_batch_size
from groundup.runs.cost.parts import seconds_by_part
from groundup.runs.folder import environment
from groundup.runs.prepare import first_job, make_plan, open_data, with_measured_constants
from groundup.training import Job, TrainingState, train_step


def bench(
    recipe: Recipe,
    steps: int = 5,
    stop: StopRequest | None = None,
    profile: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train `steps` steps per input size of the run and measure them.

    Gives, per input size: images/s, TFLOP/s, `mfu`, and the median seconds of a step and of its parts (`seconds_by_part`); then the
    peak memory in bytes and `advice`, lines of text. `profile`: a file for torch's trace of two steps at the last input size, which
    ui.perfetto.dev opens; `tell`: what is decided on the way, in words.
    """
    if profile is not None and profile.exists():
        raise UsageError(f"--profile {str(profile)!r}: exists, and is not overwritten", hint="give another name")
    stop = stop or StopRequest()
    splits = open_data(recipe, stop)
    recipe = with_batch_size(with_measured_constants(recipe, splits), splits, tell, stop.check)
    plan = make_plan(recipe, splits)
    job, state = first_job(plan, stop.check)
    try:
        return _measured(job, state, recipe, steps, stop, profile)
    finally:
        job.data.close()


def _measured(
    job: Job, state: TrainingState, recipe: Recipe, steps: int, stop: StopRequest, profile: Path | None
) -> dict[str, Any]:
    engine = job.engine
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
                "seconds": {"step": seconds, **seconds_by_part(job, state, first, steps)},
            }
        )
    if profile is not None:
        _trace(lambda: train_step(job, state), profile, engine.torch_device)
    return {
        "recipe": recipe.name,
        "engine": engine.to_dict(),
        "matrix_tflops": ceiling / 1e12,
        "sizes": sizes,
        "peak_memory_bytes": peak_memory(engine.torch_device),
        "advice": advice(recipe, engine, sizes),
        **environment(),
    }


def matrix_flops(device: torch.device, precision: str, size: int | None = None) -> float:
    """FLOP/s of a square matrix product on `device`, the best of five: the ceiling that `mfu` is measured against."""
    size = size or (8192 if device.type == "cuda" else 2048)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    _timed(lambda: a @ b, device)
    return 2 * size**3 / min(_timed(lambda: a @ b, device) for _ in range(5))


def peak_memory(device: torch.device) -> int:
    """Bytes: on a GPU the most that torch has held there, else the most that this process has had in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def _trace(step: Callable[[], Any], path: Path, device: torch.device) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        step()
        step()
        _wait(device)
    with whole_file(path) as temporary:
        profiler.export_chrome_trace(str(temporary))


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
