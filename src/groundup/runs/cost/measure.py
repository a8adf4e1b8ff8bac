"""What the first passes of a run show and cost, measured on the machine that asks: nothing is kept, no file is written.

On a CPU a full step of a large network takes longer than anyone waits for a check. There a pass of a few images is measured, of
as many as it takes to keep the machine busy for most of a second, and its seconds are multiplied up: the time per image is nearly
constant from there on, other input sizes go by the FLOP of a training pass, and the optimizer is measured apart, because it does
not depend on the batch. `Measured.how` says what was done. On a machine that others use as well, Linux tells how long the threads
of this process waited for a core; that share is taken off, and said.
The learning rate is as good as 0 in every pass: nothing here depends on the schedule, and the weights stay where they began.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.flop_counter import FlopCounterMode

from groundup import augment
from groundup.basis.machine import out_of_memory
from groundup.models import set_dropout
from groundup.optim.schedules import ConstantSettings
from groundup.preflight import Start
from groundup.training import Job, Rates, SampleOrder, TrainingState, train_step
from groundup.training.loop import add_gradients, draw, update
from groundup.training.rates import Part

PROBED = 8  # images in a pass that only looks
_PATIENCE = 2.0  # seconds that one full step may take to be measured
_LONG_ENOUGH = 0.6  # seconds of a pass from which its time per image is that of a large batch
_STEPS = 3
_BUSY = 0.2  # share of the time spent waiting for a core, from which it is said
_OVERFITTED, _OVERFIT_STEPS, _OVERFIT_RATE = 16, 40, 2e-3
_NUDGE, _SCALE = 0.02, 128.0
_NO_RATE = 1e-12  # weights stay where they are; 0 is no learning rate of a schedule


@dataclass(frozen=True)
class Measured:
    """start: what the first passes showed; step_seconds: of a plain step, by input size in px; per_image: bytes that the backward
    pass needs of one image at the largest input size; optimizer_bytes: what the optimizer keeps; how: in words; peak: bytes on an
    accelerator in a real step, None elsewhere."""

    start: Start
    step_seconds: dict[int, float]
    per_image: int
    optimizer_bytes: int
    how: str
    peak: int | None


def measure(job: Job, state: TrainingState) -> Measured:
    """Probe the network of `state`, which is no good for training afterwards, and time the steps of the run."""
    job = replace(job, sam=None)
    state.average = None
    # An overflow at the usual first scale of 65536 would be no finding.
    state.scaler = torch.amp.GradScaler(
        job.engine.torch_device.type, init_scale=_SCALE, enabled=state.scaler.is_enabled()
    )
    state.model.train()
    probe = _Probe.of(job, state)
    smallest = next(iter(job.flops))
    largest = max(job.flops)
    whole = probe.waited * job.train.batch_size / probe.images
    watch = _Watch(job)
    if not watch.on_cpu or max(whole * job.flops[size] / job.flops[smallest] for size in job.flops) <= _PATIENCE:
        try:
            seconds = _full_steps(job, state, watch)
            how = f"median of {_STEPS} steps of {job.train.batch_size} images{watch.remark}"
            return probe.result(seconds, largest / smallest, how, _peak(job))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            state.optimizer.zero_grad(set_to_none=True)
    per_image, made = probe.seconds / probe.images, _flops_made(job, state.model)
    seconds = {
        size: per_image * flops / made[smallest] * job.train.batch_size + probe.update_seconds
        for size, flops in made.items()
    }
    how = f"extrapolated from a pass of {probe.images} images to a step of {job.train.batch_size}{probe.remark}"
    return probe.result(seconds, largest / smallest, how, None)


@dataclass(frozen=True)
class _Probe:
    """What passes of a few images at the first input size showed. `saved_by_one`: bytes that the backward pass needs of an image;
    `seconds`: of a pass of `images`, without the update; `waited`: what a pass took by the clock on the wall."""

    start: Start
    images: int
    seconds: float
    waited: float
    update_seconds: float
    remark: str
    saved_by_one: float
    optimizer_bytes: int

    @classmethod
    def of(cls, job: Job, state: TrainingState) -> "_Probe":
        watch = _Watch(job)
        small, logits = _with_few_images(job, PROBED)
        live = small.live.at(0)
        if live.dropout is not None:
            set_dropout(state.model, live.dropout)
        batch = draw(small, 0, live)
        saved = _SavedBytes(state.model)
        with saved.counting():
            total, _ = watch.time(add_gradients, small, state, batch, live)
        first = watch.seconds
        blank = torch.zeros_like(logits[0], dtype=torch.float32)
        reference = job.loss(blank, batch.targets, live.label_smoothing, job.class_weights)[0] / batch.weight
        silent, not_finite = _by_gradient(state.model)
        update(job, state)  # allocates what the optimizer keeps
        _nudge(state.model)
        with _without_dropout(state.model):
            watch.time(add_gradients, small, state, batch, live)
        seconds, waited = min(first, watch.seconds), watch.waited
        still = set(_by_gradient(state.model)[0])
        watch.time(update, job, state)
        updating = watch.seconds
        start = Start(
            loss=float(total / batch.weight),
            reference=float(reference),
            classes=job.classes,
            images=len(batch.indices),
            parameters=sum(parameter.requires_grad for parameter in state.model.parameters()),
            unreached=tuple(name for name in silent if name in still),
            not_finite=tuple(not_finite),
        )
        kept = sum(tensor_bytes(entry.values()) for entry in state.optimizer.state.values())
        saved_by_one = saved.total / len(batch.indices)
        images = len(batch.indices)
        if watch.on_cpu and (longer := _longer(job, state, images, seconds, watch)) > images:
            images, seconds, waited = longer, watch.seconds, watch.waited
        return cls(start, images, seconds, waited, updating, watch.remark, saved_by_one, kept)

    def result(self, seconds: dict[int, float], growth: float, how: str, peak: int | None) -> Measured:
        """growth: side of the largest input size over that of the first."""
        per_image = math.ceil(self.saved_by_one * growth**2)
        return Measured(self.start, seconds, per_image, self.optimizer_bytes, how, peak)


def _flops_made(job: Job, model: nn.Module) -> dict[int, int]:
    """FLOP that a training pass of two images carries out, by input size: the usual count holds products with padding that a
    network may leave out. The model comes back as it was."""
    if len(job.flops) == 1:
        return job.flops
    made, buffers = {}, [buffer.clone() for buffer in model.buffers()]
    with torch.no_grad():
        for size in job.flops:
            counter = FlopCounterMode(display=False)
            with counter:
                model(torch.zeros(2, 3, size, size, device=job.engine.torch_device))
            made[size] = counter.get_total_flops()
        for buffer, kept in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(kept)
    return made


def _longer(job: Job, state: TrainingState, images: int, seconds: float, watch: "_Watch") -> int:
    """Time passes of ever more images until one is mostly arithmetic, at most a whole forward pass: the images of the last."""
    most = min(job.train.micro_batch or job.train.batch_size, job.train.batch_size)
    while seconds < _LONG_ENOUGH and images < most:
        job.check()
        images = min(most, images * max(2, min(8, round(_LONG_ENOUGH / seconds))))
        small, _ = _with_few_images(job, images)
        live = small.live.at(0)
        batch = draw(small, 0, live)
        watch.time(add_gradients, small, state, batch, live)
        seconds = watch.seconds
        state.optimizer.zero_grad(set_to_none=True)
    return images


class _SavedBytes:
    """Counts the bytes that autograd keeps for the backward pass, each storage once, weights and their copies in half precision
    not at all. What is kept stays alive until the backward pass, so that no address stands for two storages."""

    def __init__(self, model: nn.Module) -> None:
        self._seen = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        self._shapes = [sorted(p.shape) for p in model.parameters() if p.ndim > 1 and p.dtype == torch.float32]
        self.total = 0

    def counting(self) -> torch.autograd.graph.saved_tensors_hooks:
        """The context in which the forward pass has to run."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage, half = tensor.untyped_storage(), tensor.dtype in (torch.bfloat16, torch.float16)
        # By its shape, in any order: autograd keeps the weights of a linear layer turned.
        if storage.data_ptr() not in self._seen and not (half and sorted(tensor.shape) in self._shapes):
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor


def _with_few_images(job: Job, count: int) -> tuple[Job, list[Tensor]]:
    """The job with batches of `count` images, and a list that receives the logits of every forward pass."""
    count = min(count, job.train.batch_size)
    logits: list[Tensor] = []

    def forward(images: Tensor) -> Tensor:
        logits.append(job.forward(images))
        return logits[-1]

    settings = job.train.model_copy(update={"batch_size": count, "micro_batch": None})
    order = SampleOrder(
        job.seed,
        job.data.labels.cpu(),
        batch_size=count,
        drop_last=True,
        balanced=False,
        windows=job.order.windows,
    )
    return replace(job, train=settings, order=order, forward=forward), logits


def _by_gradient(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the trainable parameters without a gradient or with one of zeros alone, and of those where it is not finite."""
    silent, not_finite = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None or not parameter.grad.any():
            silent.append(name)
        elif not parameter.grad.isfinite().all():
            not_finite.append(name)
    return silent, not_finite


@torch.no_grad()
def _nudge(model: nn.Module) -> None:
    """Move what began at zero a little, so that nothing is hidden behind it."""
    for parameter in model.parameters():
        if parameter.requires_grad and not parameter.any():
            parameter.copy_(torch.linspace(-_NUDGE, 1.5 * _NUDGE, parameter.numel()).view(parameter.shape))


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Of every kind: a branch that a draw has left out has no gradient, and is reached all the same. Put back afterwards, because
    the masks take time and memory in every step of the run."""
    shares = [(module, module.p) for module in model.modules() if isinstance(module, _DropoutNd)]
    for module, _ in shares:
        module.p = 0.0
    try:
        yield
    finally:
        for module, share in shares:
            module.p = share


def _full_steps(job: Job, state: TrainingState, watch: "_Watch") -> dict[int, float]:
    """Median seconds of a real step per input size."""
    if job.engine.torch_device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(job.engine.torch_device)
    firsts, quiet = first_steps(job), at_rest(job)
    seconds = {}
    for size in job.flops:
        times, following = [], steps_from(job, firsts[size])
        # On a GPU in one go, as in training: the host prepares a step while the device is still at the one before.
        together = 1 if watch.on_cpu else _STEPS
        watch.time(_train, quiet, state, following, 1)  # warm-up of this input size
        for _ in range(_STEPS // together):
            watch.time(_train, quiet, state, following, together)
            times.append(watch.seconds / together)
        seconds[size] = sorted(times)[len(times) // 2]
    return seconds


def _train(job: Job, state: TrainingState, following: Iterator[int], steps: int) -> None:
    for _ in range(steps):
        job.check()
        state.step = next(following)
        train_step(job, state)


def first_steps(job: Job) -> dict[int, int]:
    """The first step of every input size in px."""
    steps = sorted({0, *(first for first, _ in job.live.changes)}, reverse=True)
    return {job.live.at(step).resolution: step for step in steps}


def steps_from(job: Job, first: int) -> Iterator[int]:
    """The steps of the phase that begins at `first`, one after the other, and from `first` on again when it ends. A step that is
    made twice in a row would wait for images that nobody decodes ahead."""
    later = (change for change, _ in job.live.changes if change > first)
    return cycle(range(first, min(later, default=job.clock.total_steps)))


def at_rest(job: Job) -> Job:
    """The job with a rate so small that its steps leave the weights where they are."""
    still = ConstantSettings(name="constant", lr=_NO_RATE)
    return replace(job, rates=Rates((Part(0, still, job.clock),), job.clock))


def step_bytes(job: Job, state: TrainingState) -> tuple[int, int]:
    """Bytes that the backward pass needs of one image at the largest input size, and that the optimizer keeps. `state` is no
    good for training afterwards."""
    state.model.train()
    live = job.live.at(0)
    if live.dropout is not None:
        set_dropout(state.model, live.dropout)
    batch = draw(job, 0, live)
    saved = _SavedBytes(state.model)
    with saved.counting():
        add_gradients(job, state, batch, live)
    update(job, state)  # allocates what the optimizer keeps
    growth = max(job.flops) / live.resolution
    kept = sum(tensor_bytes(entry.values()) for entry in state.optimizer.state.values())
    return math.ceil(saved.total / len(batch.indices) * growth**2), kept


def overfit(job: Job, model: nn.Module) -> tuple[float, ...]:
    """Losses of one small batch while `model` learns it by heart: clean images, no mixing, smoothing or dropout, AdamW."""
    images, labels = job.data.take(job.order.at(0)[1][:_OVERFITTED])
    images = augment.normalize(images, job.mean, job.std, job.live.at(0).resolution)
    model.train()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=_OVERFIT_RATE, weight_decay=0.0
    )
    losses = []
    with _without_dropout(model):
        for _ in range(_OVERFIT_STEPS):
            job.check()
            with job.engine.autocast():
                logits = model(images)
            loss_sum, weight = job.loss(logits.float(), labels, 0.0, None)
            loss = loss_sum / weight
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return tuple(losses)


def differing(first: nn.Module, second: nn.Module) -> tuple[str, ...]:
    """Names of the tensors that are not equal in two networks of one class."""
    other = second.state_dict()
    return tuple(name for name, tensor in first.state_dict().items() if not torch.equal(tensor, other[name]))


def tensor_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the tensors among `tensors`."""
    return sum(entry.numel() * entry.element_size() for entry in tensors if isinstance(entry, Tensor))


def _peak(job: Job) -> int | None:
    device = job.engine.torch_device
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None


class _Watch:
    """A stopwatch. After `time`: `waited`, seconds by the clock on the wall; `seconds`, without the waiting for a core."""

    def __init__(self, job: Job) -> None:
        self.on_cpu = job.engine.torch_device.type == "cpu"
        self.seconds = self.waited = 0.0
        self._engine, self._all, self._alone = job.engine, 0.0, 0.0

    def time(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What `call` gives, timed until the device has done it."""
        self._engine.synchronize()
        before, started = time_on_cores(), time.perf_counter()
        result = call(*arguments)
        self._engine.synchronize()
        self.waited = time.perf_counter() - started
        self.seconds = without_waiting(self.waited, before, time_on_cores()) if self.on_cpu else self.waited
        self._all, self._alone = self._all + self.waited, self._alone + self.seconds
        return result

    @property
    def remark(self) -> str:
        """What there is to say about the waiting so far."""
        share = 1 - self._alone / self._all if self._all else 0.0
        return "" if share < _BUSY else f"; other work held the cores for {share:.0%} of the time, which is taken off"


def time_on_cores() -> tuple[int, int]:
    """Nanoseconds that the threads of this process have run on a core, and have waited for one; (0, 0) where nobody tells."""
    ran = waited = 0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        try:
            first, second, _ = file.read_text().split()
        except (OSError, ValueError):
            continue  # a thread that has just ended, or another kind of kernel
        ran, waited = ran + int(first), waited + int(second)
    return ran, waited


def without_waiting(seconds: float, before: tuple[int, int], after: tuple[int, int]) -> float:
    """The part of `seconds` that is left on a machine of one's own; before, after: `time_on_cores` then."""
    ran, waited = after[0] - before[0], after[1] - before[1]
    return seconds * ran / (ran + waited) if ran > 0 and waited > 0 else seconds
