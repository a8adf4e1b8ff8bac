"""The training loop, from top to bottom: evaluate and save where it is time, stop where it was asked to, else make one step.

A step: the live values and rates of this step; the images of this step; augmentation with parameters drawn for the whole
batch; forward, loss and backward per micro-batch; clip; update. Everything but the training state is a function of
(settings, seed, step), so a resumed run repeats what the uninterrupted one would have done.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from groundup import augment
from groundup.basis.duration import Clock
from groundup.basis.errors import GroundupError
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.basis.seeding import seed_from
from groundup.data import MemoryLoader
from groundup.optim import Schedule, apply_rates, loss_parts
from groundup.tracking import Trackers
from groundup.training.checkpoint import CheckpointStore
from groundup.training.engine import Engine
from groundup.training.live import LiveSchedule
from groundup.training.order import SampleOrder
from groundup.training.settings import CheckpointSettings, EvaluateSettings, TrainSettings
from groundup.training.state import TrainingState

_CALM = "lower the schedule's learning rate, lengthen its warm-up, or set train.clip_norm=1"


class NonFiniteLoss(GroundupError):
    """The loss became infinite or not a number."""


@dataclass(frozen=True)
class Job:
    """Everything about a run that does not change while it runs.

    `image_size`: side of the stored images in px; `mean`, `std`: of pixels in [0, 1]; `class_weights`: float (C,) on the
    device; `flops`: forward FLOPs of one image per input size in px; `forward`: the network, compiled or not; `evaluate`:
    gives the validation numbers of the model as it is now (may raise `Interrupted`), None without a validation split.
    """

    seed: int
    clock: Clock
    engine: Engine
    train: TrainSettings
    schedule: Schedule
    live: LiveSchedule
    evaluation: EvaluateSettings
    checkpoint: CheckpointSettings
    data: MemoryLoader
    order: SampleOrder
    image_size: int
    mean: augment.Colour
    std: augment.Colour
    class_weights: Tensor | None
    flops: dict[int, int]
    forward: Callable[[Tensor], Tensor]
    evaluate: Callable[[], dict[str, float]] | None
    step_every: int = 10

    def is_due(self, every: int, step: int) -> bool:
        """Whether something done every `every` steps, and at the end, is due after `step` updates."""
        return step == self.clock.total_steps or (step > 0 and step % max(1, every) == 0)


def train(job: Job, state: TrainingState, store: CheckpointStore, trackers: Trackers, stop: StopRequest) -> None:
    """Train from `state.step` to the end. `Interrupted` after saving if asked to stop; `NonFiniteLoss` if it diverges."""
    evaluate_every, save_every = job.clock.steps(job.evaluation.every), job.clock.steps(job.checkpoint.every)
    watch = LossWatch(job, trackers)
    saved = (state.step, state.evaluated_at)
    state.model.train()
    try:
        while True:
            if job.is_due(evaluate_every, state.step) and state.evaluated_at != state.step:
                settle(job, state, watch)
                trackers.evaluation(evaluation_record(job, state))
            due = job.is_due(save_every, state.step) or is_new_best(job, state)
            if due and saved != (state.step, state.evaluated_at):
                settle(job, state, watch)
                save(job, state, store)
                saved = (state.step, state.evaluated_at)
            if state.step == job.clock.total_steps:
                return
            stop.check()
            started = time.perf_counter()
            loss = train_step(job, state)
            watch.saw(state, loss)
            state.seconds += time.perf_counter() - started
    except Interrupted:
        settle(job, state, watch)
        save(job, state, store)
        raise


def is_new_best(job: Job, state: TrainingState) -> bool:
    """Whether these weights are the ones that a run which reports its best would report: they have to be kept."""
    return job.evaluation.model == "best" and state.best is not None and state.best["step"] == state.step


def settle(job: Job, state: TrainingState, watch: "LossWatch") -> None:
    """Wait until the device has done what it was given, count that time as training, and read the last loss."""
    started = time.perf_counter()
    job.engine.synchronize()
    state.seconds += time.perf_counter() - started
    watch.catch_up()


def train_step(job: Job, state: TrainingState) -> Tensor:
    """One optimizer update. Returns the loss of the batch, a scalar on the device that nobody has waited for."""
    live, rates = job.live.at(state.step), job.schedule.at(state.step, job.clock)
    apply_rates(state.optimizer, rates)
    indices, batch = batch_of(job, state.step)
    drawn = augment.draw(live.policy, batch, state.step)
    labels = job.data.labels[indices]
    weight = label_weight(labels, job.class_weights)
    seed_dropout(job.engine.torch_device, seed_from(job.seed, "dropout", state.step, 0))
    total = torch.zeros((), device=indices.device)
    correct = torch.zeros((), dtype=torch.int64, device=indices.device)
    for part in parts(len(indices), job.train.micro_batch):
        images = augment.apply(live.policy, job.data.take(indices[part])[0], drawn, part)
        images = augment.normalize(images, job.mean, job.std, live.resolution)
        with job.engine.autocast():
            logits = job.forward(images)
        loss_sum, _ = loss_parts(logits, labels[part], live.label_smoothing, job.class_weights)
        state.scaler.scale(loss_sum / weight).backward()
        total += loss_sum.detach()
        correct += (logits.detach().argmax(1) == labels[part]).sum()
    skipped = update(job, state)
    count = torch.full_like(weight, len(indices))
    state.sums.values += torch.stack([total, weight, correct.to(total.dtype), count, skipped]).to(
        state.sums.values.dtype
    )
    state.step += 1
    state.images += len(indices)
    state.flops += 3 * job.flops[live.resolution] * len(indices)
    return total / weight


def seed_dropout(device: torch.device, seed: int) -> None:
    """Seed the generators that dropout draws from. Not torch.manual_seed: without a GPU that keeps a note of every call."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def update(job: Job, state: TrainingState) -> Tensor:
    """Clip and apply the gradients, then drop them. Returns 1.0 on the device if they were not finite and were not applied.

    On a GPU nobody waits for the answer: there such gradients count as zero (momentum and decay go on) instead.
    """
    optimizer, scaler = state.optimizer, state.scaler
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.get_total_norm(gradients)
    finite = norm.isfinite()
    if job.train.clip_norm is not None:
        torch._foreach_mul_(gradients, (job.train.clip_norm / (norm + 1e-6)).clamp(max=1.0))
    if scaler.is_enabled():
        scaler.step(optimizer)  # skips by itself, and lowers its scale
        scaler.update()
    elif norm.device.type == "cpu":
        if finite:
            optimizer.step()
    else:
        for gradient in gradients:
            gradient.copy_(torch.where(finite, gradient, 0.0))
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return (~finite).to(norm.dtype)


def batch_of(job: Job, step: int) -> tuple[Tensor, augment.Batch]:
    """The images of update number `step`, as int64 indices on the device, and what augmentation may know of them."""
    device = job.engine.torch_device
    epoch, indices = job.order.at(step)
    # Elsewhere than on CUDA a copy that nobody waits for may be read before it has arrived.
    indices = indices.to(device, non_blocking=device.type == "cuda")
    return indices, augment.Batch(indices, epoch, job.seed, job.image_size, job.mean, device)


def parts(count: int, micro_batch: int | None) -> Iterator[slice]:
    """Cut a batch of `count` images into micro-batches; the last may be short."""
    size = micro_batch or count
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def label_weight(labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """The weight of a whole batch, which every micro-batch's loss is divided by: float32 scalar."""
    if class_weights is None:
        return torch.full((), float(len(labels)), device=labels.device)
    return class_weights[labels].sum()


def evaluation_record(job: Job, state: TrainingState) -> dict[str, Any]:
    """One line of metrics.jsonl: training means since the last line, live values, validation numbers. Marks it as written.

    The state changes only after evaluation has come to its end, so that an interruption in between loses nothing.
    """
    numbers = job.evaluate() if job.evaluate else {}
    sums = require_finite(state)
    last = max(0, state.step - 1)
    live, rates = job.live.at(last), job.schedule.at(last, job.clock)
    record: dict[str, Any] = {
        "step": state.step,
        "epoch": round(job.clock.epoch(state.step), 4),
        **sums,
        **numbers,
        "lr": rates.lr,
        **({} if rates.momentum is None else {"momentum": rates.momentum}),
        "resolution": live.resolution,
        "label_smoothing": live.label_smoothing,
        "seconds": round(state.seconds, 3),
        "images_per_second": round(state.images / state.seconds, 1) if state.seconds else 0.0,
        "pflop": state.flops / 1e15,
    }
    state.skipped_updates += int(sums["skipped_updates"])
    state.sums.values.zero_()
    state.evaluated_at = state.step
    if "validation_top1" in record and (
        state.best is None or record["validation_top1"] > state.best["validation_top1"]
    ):
        state.best = {"step": state.step, "validation_top1": record["validation_top1"]}
    return record


def require_finite(state: TrainingState) -> dict[str, float]:
    """The training means since the last line. `NonFiniteLoss` if any loss since then was infinite or not a number."""
    sums = state.sums.read()
    if state.sums.images and not math.isfinite(sums["train_loss"]):
        raise NonFiniteLoss(
            f"the loss became {sums['train_loss']} between step {max(0, state.evaluated_at)} and step {state.step}",
            hint=_CALM,
        )
    return sums


def save(job: Job, state: TrainingState, store: CheckpointStore) -> None:
    """Write a checkpoint, with the engine that the run has to go on with. A run that has diverged is not saved."""
    require_finite(state)
    store.save(state, job.engine.to_dict())


class LossWatch:
    """Reads the loss some steps late, so that no step waits for it: reports it, and ends the run when it is not finite."""

    def __init__(self, job: Job, trackers: Trackers) -> None:
        self._job = job
        self._trackers = trackers
        self._pending: Pending | None = None
        self._last: tuple[float, int] | None = None

    def saw(self, state: TrainingState, loss: Tensor) -> None:
        """Take note of the loss of the step just made, and of the accuracy since the last line of metrics.jsonl."""
        if state.step % self._job.step_every:
            return
        self.catch_up()
        last = state.step - 1
        record = {
            "step": state.step,
            "epoch": self._job.clock.epoch(state.step),
            "lr": self._job.schedule.at(last, self._job.clock).lr,
            "resolution": self._job.live.at(last).resolution,
            **self._speed(state),
        }
        self._pending = Pending.of(record, torch.stack([loss.detach().to(state.sums.values), *state.sums.values[2:4]]))

    def _speed(self, state: TrainingState) -> dict[str, float]:
        now, before = (time.perf_counter(), state.images), self._last
        self._last = now
        return {"images_per_second": (now[1] - before[1]) / (now[0] - before[0])} if before else {}

    def catch_up(self) -> None:
        """Report what is pending. `NonFiniteLoss` says where the run diverged."""
        if self._pending is None:
            return
        (record, (loss, correct, images)), self._pending = self._pending.read(), None
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"the loss is {loss} at step {record['step']} (epoch {record['epoch']:.2f}, learning rate {record['lr']:.4g})",
                hint=_CALM,
            )
        self._trackers.step({**record, "loss": loss, "top1": correct / images})


@dataclass(frozen=True)
class Pending:
    """Numbers on their way from the device to the host, and the record that they belong to."""

    record: dict[str, Any]
    numbers: Tensor
    arrived: torch.cuda.Event | None

    @classmethod
    def of(cls, record: dict[str, Any], numbers: Tensor) -> "Pending":
        if numbers.device.type != "cuda":
            return cls(record, numbers.cpu(), None)
        copied, arrived = numbers.to("cpu", non_blocking=True), torch.cuda.Event()
        arrived.record()
        return cls(record, copied, arrived)

    def read(self) -> tuple[dict[str, Any], list[float]]:
        """The record and its numbers. By now the device has long sent them; if not, this waits."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.record, self.numbers.tolist()
