"""How fast a recipe trains here, where the time goes, and what to change, over a few real steps.

Nothing is written but the trace that was asked for. MFU ("model FLOPs utilisation") is the share of the rate of a large matrix
product measured on the spot, in the run's precision, not of a data sheet. FLOP are counted by the usual formula, with the
padding of convolutions; a network that leaves such products out (`speed_net` on a CPU) can show more than 100%.
"""

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator
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
from groundup.runs.cost.estimate import device_memory, pixel_bytes
from groundup.runs.cost.measure import first_steps, steps_from
from groundup.runs.cost.parts import seconds_by_part
from groundup.runs.folder import environment
from groundup.runs.prepare import Plan, first_job, make_plan, open_data, with_measured_constants
from groundup.training import Job, TrainingState, train_step

_KEPT_SHARE = 0.5  # of the memory that is free, which decoded images may take where it is advised to keep them there


def bench(
    recipe: Recipe,
    steps: int = 5,
    stop: StopRequest | None = None,
    profile: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train `steps` steps per input size of the run and measure them.

    Gives, per input size: images/s, TFLOP/s and `mfu` of a typical step, its seconds and the median ones of its parts
    (`seconds_by_part`); then the peak memory in bytes and `advice`, lines of text. The steps follow one another as they do in
    training, so that what is decoded ahead is what comes next. `profile`: a file for torch's trace of two steps at the last input
    size, which ui.perfetto.dev opens; `tell`: what is decided on the way, in words.
    """
    if profile is not None and profile.exists():
        raise UsageError(f"--profile {str(profile)!r}: exists, and is not overwritten", hint="give another name")
    stop = stop or StopRequest()
    splits = open_data(recipe, stop)
    recipe = with_batch_size(with_measured_constants(recipe, splits), splits, tell, stop.check)
    plan = make_plan(recipe, splits)
    job, state = first_job(plan, stop.check)
    try:
        return _measured(job, state, plan, steps, stop, profile)
    finally:
        job.data.close()


def _measured(
    job: Job, state: TrainingState, plan: Plan, steps: int, stop: StopRequest, profile: Path | None
) -> dict[str, Any]:
    recipe, engine = plan.recipe, job.engine
    ceiling = matrix_flops(engine.torch_device, engine.precision)
    sizes = []
    if engine.torch_device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(engine.torch_device)  # neither the matrices above nor a search for the batch
    for resolution, first in sorted(first_steps(job).items(), key=lambda item: item[1]):
        following = steps_from(job, first)
        _step(job, state, next(following))  # warm-up of this input size
        seconds, images, flops = _typical_step(job, state, following, steps, stop)
        sizes.append(
            {
                "resolution": resolution,
                "images_per_second": images / seconds,
                "tflops": flops / seconds / 1e12,
                "mfu": flops / seconds / ceiling,
                "seconds": {"step": seconds, **seconds_by_part(job, state, following, steps)},
            }
        )
    if profile is not None:
        _trace(lambda: _step(job, state, next(following)), profile, engine.torch_device)
    fits = pixel_bytes(plan.splits) <= _KEPT_SHARE * device_memory(engine.torch_device)[0]
    return {
        "recipe": recipe.name,
        "engine": engine.to_dict(),
        "matrix_tflops": ceiling / 1e12,
        "sizes": sizes,
        "peak_memory_bytes": peak_memory(engine.torch_device),
        "advice": advice(recipe, engine, sizes, fits) + _left_out(job, sizes),
        **environment(),
    }


def _left_out(job: Job, sizes: list[dict[str, Any]]) -> list[str]:
    """What to say of SAM where none of the measured steps used it."""
    if job.sam is None or any(size["seconds"]["sam"] for size in sizes):
        return []
    due = sum(job.sam.is_due(step, job.clock) for step in range(job.clock.total_steps))
    return [
        f"none of the steps measured uses SAM; {due:,} of the run's {job.clock.total_steps:,} do, and take about twice as long"
    ]


def _typical_step(
    job: Job, state: TrainingState, following: Iterator[int], steps: int, stop: StopRequest
) -> tuple[float, float, float]:
    """Seconds, images and FLOPs of a step: the median of `steps` on a CPU, on which other work may come between; on a GPU their
    mean, since there the host prepares a step while the device is still at the one before."""
    device = job.engine.torch_device

    def some(count: int) -> tuple[float, float, float]:
        def train() -> None:
            for _ in range(count):
                stop.check()
                _step(job, state, next(following))

        images, flops = state.images, state.flops
        seconds = _timed(train, device)
        # SAM's second pass counts where it is made.
        return seconds / count, (state.images - images) / count, (state.flops - flops) / count

    if device.type == "cuda":
        return some(steps)
    return sorted(some(1) for _ in range(steps))[steps // 2]


def _step(job: Job, state: TrainingState, number: int) -> None:
    state.step = number
    train_step(job, state)


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
    with contextlib.suppress(OSError):  # no Linux, or no /proc
        # What getrusage says there is at least what the process held that started this one.
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024
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
