"""From a plan and what was measured of its first passes to the cost of the whole run."""

import math
import shutil
from pathlib import Path

import psutil
import torch
from torch import nn

from groundup.basis.duration import Clock
from groundup.data import Splits
from groundup.data.decoding_loader import AHEAD_BYTES
from groundup.models import forward_flops
from groundup.preflight import Cost, Disk, Memory, evaluated_images, steps_by_size, train_flops
from groundup.recipe import Recipe
from groundup.runs.cost.measure import Measured, tensor_bytes
from groundup.runs.from_disk import decodes_batches
from groundup.runs.prepare import NORM_BATCHES, Plan
from groundup.training import Job, NoAverage, TrainingState

# Of ResNet-18, WRN-16-4 and speed_net in fp32 and bf16 and ResNet-50 in bf16 these give the peak of a process on a CPU with AMX
# within 9% (`groundup bench`). What the backward pass holds besides, gradients of activations and the kernels' own room, as a
# factor on the activations; what a CPU's kernels, threads and kept memory take whatever the network, in bytes; what an update needs
# for a moment, as a factor on the weights.
_WITH_GRADIENTS = 1.5
_KERNELS = 250_000_000
_UPDATE, _UPDATE_BY_MUON = 1.5, 4
_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_GROUP_FILES = {"v1": ("memory.limit_in_bytes", "memory.usage_in_bytes"), "v2": ("memory.max", "memory.current")}


def estimate(plan: Plan, job: Job, state: TrainingState, measured: Measured, program: int, place: Path) -> Cost:
    """What the whole run takes. program: bytes of memory that the process had before it opened the data; place: where runs go."""
    recipe, clock = plan.recipe, plan.clock
    train, splits = recipe.train, plan.splits
    sizes = steps_by_size(plan.live, clock, recipe.optimizer.sam)
    images = len(splits.train) / clock.steps_per_epoch if not train.drop_last else train.batch_size
    averaged = not isinstance(recipe.average, NoAverage)
    selecting = splits.test if recipe.evaluate.optimistic else splits.validation
    assert splits.test is not None
    every = max(1, clock.steps(recipe.evaluate.every))
    looked_at = evaluated_images(
        math.ceil(clock.total_steps / every),
        0 if selecting is None else len(selecting),
        len(splits.test),
        averaged=averaged,
        norm_images=min(NORM_BATCHES * recipe.evaluate.batch_size, len(splits.train)) if averaged else 0,
    )
    evaluation_flops = looked_at * forward_flops(state.model, splits.image_size)
    largest = max(measured.step_seconds)
    per_flop = measured.step_seconds[largest] / (3 * job.flops[largest] * train.batch_size)
    return Cost(
        device=job.engine.device,
        clock=clock,
        train_flops=train_flops(sizes, job.flops, images),
        evaluation_flops=evaluation_flops,
        step_seconds=measured.step_seconds,
        seconds=sum(measured.step_seconds[size] * (steps + twice) for size, (steps, twice) in sizes.items()),
        evaluation_seconds=evaluation_flops * per_flop,
        checkpoint_steps=max(1, clock.steps(recipe.checkpoint.every)),
        evaluate_steps=every,
        memory=_memory(plan, job, state, measured, program),
        disk=_disk(recipe, clock, state.model, measured, place),
        how=measured.how,
        per_hour=recipe.cost.per_hour,
    )


def _memory(plan: Plan, job: Job, state: TrainingState, measured: Measured, program: int) -> Memory:
    if measured.peak is not None:
        free, total = device_memory(job.engine.torch_device)
        # The steps that were measured have no average and do not go uphill.
        kept = {"measured": measured.peak, **_beside_a_step(plan.recipe, state)}
        return Memory(kept, 0, plan.recipe.train.batch_size, free, total)
    return extrapolated_memory(plan, job, state, measured.per_image, measured.optimizer_bytes, program)


def extrapolated_memory(
    plan: Plan, job: Job, state: TrainingState, per_image: int, optimizer_bytes: int, program: int
) -> Memory:
    """What a step needs, from what the backward pass keeps of one image. `program`: as in `estimate`; all in bytes."""
    recipe, splits, device = plan.recipe, plan.splits, job.engine.torch_device
    free, total = device_memory(device)
    trainable = tensor_bytes(p for p in state.model.parameters() if p.requires_grad)
    weights = tensor_bytes(state.model.state_dict().values())
    kept_in_memory = recipe.data.cache == "device" or (recipe.data.cache == "host" and device.type == "cpu")
    fixed = {
        "program": program + _KERNELS if device.type == "cpu" else 0,
        "images": pixel_bytes(splits) if kept_in_memory else 0,
        "decoded ahead": _ahead_bytes(recipe, splits),
        "weights": weights,
        "gradients": trainable,
        "weights in half precision": trainable // 2 if job.engine.precision in ("bf16", "fp16") else 0,
        "optimizer": optimizer_bytes,
        "update": math.ceil(trainable * (_UPDATE_BY_MUON if recipe.optimizer.name == "muon" else _UPDATE)),
        **_beside_a_step(recipe, state),
    }
    images = min(recipe.train.micro_batch or recipe.train.batch_size, recipe.train.batch_size)
    needed = math.ceil(_WITH_GRADIENTS * per_image)
    return Memory({what: size for what, size in fixed.items() if size}, needed, images, free, total)


def _beside_a_step(recipe: Recipe, state: TrainingState) -> dict[str, int]:
    """Bytes of what a run keeps beside what a plain step needs."""
    kept = {}
    if not isinstance(recipe.average, NoAverage):
        kept["average"] = tensor_bytes(state.model.state_dict().values())
    if recipe.optimizer.sam is not None:
        kept["copy for SAM"] = tensor_bytes(p for p in state.model.parameters() if p.requires_grad)
    return kept


def _ahead_bytes(recipe: Recipe, splits: Splits) -> int:
    """Bytes of the micro-batches that are decoded before they are asked for."""
    if not decodes_batches(recipe, splits):
        return 0
    images = min(recipe.train.micro_batch or recipe.train.batch_size, recipe.train.batch_size)
    batch = images * max(splits.image_size, recipe.data.resolution or 0) ** 2 * 3
    ahead = recipe.data.prefetch if recipe.data.workers else 0
    return batch + min(ahead * batch, AHEAD_BYTES)


def pixel_bytes(splits: Splits) -> int:
    """Bytes of all images, decoded."""
    read = [part for part in (splits.train, splits.validation, splits.test) if part is not None]
    return sum(map(len, read)) * splits.image_size**2 * 3


def _disk(recipe: Recipe, clock: Clock, model: nn.Module, measured: Measured, place: Path) -> Disk:
    weights = tensor_bytes(model.state_dict().values())
    checkpoint = weights * (1 if isinstance(recipe.average, NoAverage) else 2) + measured.optimizer_bytes
    settings = recipe.checkpoint
    milestones = clock.total_steps // max(1, clock.steps(settings.keep_every)) if settings.keep_every else 0
    saved = math.ceil(clock.total_steps / max(1, clock.steps(settings.every)))
    # The newest, one more while it is written, the best, and those that stay for good.
    kept = min(settings.keep + 2 + milestones, saved + 1)
    while not place.exists():
        place = place.parent
    return Disk(checkpoint, kept, shutil.disk_usage(place).free)


def device_memory(device: torch.device) -> tuple[int, int]:
    """Bytes that a new process could have now, and in all. Main memory for a CPU and for MPS, which shares it."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device), total
    memory, own = psutil.virtual_memory(), psutil.Process().memory_info()
    free, total = memory.available + own.rss, memory.total
    for limit, used in _group_limits():
        # Of what this process holds, files are not counted in `used`.
        free = min(free, max(0, limit - used) + own.rss - getattr(own, "shared", 0))
        total = min(total, limit)
    return free, total


def _group_limits() -> list[tuple[int, int]]:
    """Limit and bytes in use of every control group this process is in that has a limit: a container, a job of Slurm, a unit of
    systemd, and those around it. Without what was read from files, which the kernel gives back when memory is short."""
    limits = []
    for kind, folder in _memory_groups():
        try:
            limit, used = ((folder / name).read_text().strip() for name in _GROUP_FILES[kind])
            entries = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue  # not a group, or not one that counts memory
        if limit.isdigit():  # the word `max` is no limit
            counted = "total_" if kind == "v1" else ""  # v1 counts the groups inside under names of their own
            files = sum(int(entries.get(f"{counted}{state}_file", 0)) for state in ("active", "inactive"))
            limits.append((int(limit), max(0, int(used) - files)))
    return limits


def _memory_groups() -> list[tuple[str, Path]]:
    """Folders of the control groups around this process, the innermost first, with the version of their files. In a container the
    path may be one of the host's, which is not there; the root of what is mounted is then the container's own group."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return []  # not Linux
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        kind, root = ("v1", _GROUPS / "memory") if controllers else ("v2", _GROUPS)
        inside = root / path.lstrip("/") if ".." not in path.split("/") else root
        folders += [(kind, folder) for folder in (inside, *inside.parents) if folder.is_relative_to(root)]
    return folders
