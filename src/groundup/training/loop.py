"""The training loop, from top to bottom: evaluate and save where it is time, stop where it was asked to, else make one step.

A step: the live values and rates of this step; the images of this step; augmentation and mixing with parameters drawn for the
whole batch; forward, loss and backward per micro-batch, twice where SAM is due; clip; update; average. Everything but the training
state is a function of (settings, seed, step), so a resumed run repeats what the uninterrupted one would have done.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from groundup import augment
from groundup.basis.duration import Clock
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.basis.seeding import seed_from
from groundup.data import MemoryLoader, sent
from groundup.models import set_dropout
from groundup.optim import LossParts, SAMSettings, apply_rates, frozen_norm_statistics, loss_parts, uphill
from groundup.tracking import Trackers
from groundup.training import stopping
from groundup.training.checkpoint import CheckpointStore
from groundup.training.distributed import World
from groundup.training.engine import Engine
from groundup.training.gradients import Gradients
from groundup.training.live import LiveSchedule, LiveValues
from groundup.training.order import SampleOrder
from groundup.training.rates import Rates
from groundup.training.settings import CheckpointSettings, EvaluateSettings, StopSettings, TrainSettings
from groundup.training.state import TrainingState
from groundup.training.watch import CALM, LossWatch, NonFiniteLoss


@dataclass(frozen=True)
class Job:
    """Everything about a run that does not change while it runs.

    `classes`: how many there are; `image_size`: side of the stored images in px; `mean`, `std`: of pixels in [0, 1];
    `class_weights`: float (C,) on the device; `flops`: forward FLOPs of one image per input size in px; `forward`: the network,
    compiled or not; `evaluate`: gives the numbers of a network on the split that selects (may raise `Interrupted`), None without
    one; `norm_images`: normalised clean training images, float (B, 3, S, S), for the batch-norm statistics of an average; `loss`:
    that of a part of a batch, as a sum and a denominator; `world`: the processes that train together, each a part of every batch;
    `gradients`: adds up theirs.
    """

    seed: int
    clock: Clock
    engine: Engine
    train: TrainSettings
    rates: Rates
    live: LiveSchedule
    evaluation: EvaluateSettings
    checkpoint: CheckpointSettings
    data: MemoryLoader
    order: SampleOrder
    classes: int
    image_size: int
    mean: augment.Colour
    std: augment.Colour
    class_weights: Tensor | None
    flops: dict[int, int]
    forward: Callable[[Tensor], Tensor]
    evaluate: Callable[[nn.Module], dict[str, float]] | None
    norm_images: Callable[[], Iterable[Tensor]]
    loss: LossParts = loss_parts
    check: Callable[[], None] = lambda: None
    sam: SAMSettings | None = None
    stop: StopSettings = field(default_factory=StopSettings)
    step_every: int = 10
    world: World = field(default_factory=World)
    gradients: Gradients = field(default_factory=Gradients)

    def is_due(self, every: int, step: int) -> bool:
        """Whether something done every `every` steps, and at the end, is due after `step` updates."""
        return step == self.clock.total_steps or (step > 0 and step % max(1, every) == 0)


def train(job: Job, state: TrainingState, store: CheckpointStore, trackers: Trackers, stop: StopRequest) -> None:
    """Train from `state.step` to the end. `Interrupted` after saving if asked to stop; `NonFiniteLoss` if it diverges."""
    evaluate_every, save_every = job.clock.steps(job.evaluation.every), job.clock.steps(job.checkpoint.every)
    watch = LossWatch(trackers, job.step_every, lambda state: describe(job, state))
    saved = (state.step, state.evaluated_at)
    state.model.train()
    try:
        while True:
            if job.is_due(evaluate_every, state.step) and state.evaluated_at != state.step:
                settle(job, state, watch)
                trackers.evaluation(evaluation_record(job, state))
                watch.leave_out(state)
            kept = is_to_be_kept(job, state)
            # A stop in the middle of measuring the average of a kept step has saved it without its norm statistics.
            lacks = kept and lacks_norms_of_average(state)
            if (kept or job.is_due(save_every, state.step)) and (lacks or saved != (state.step, state.evaluated_at)):
                settle(job, state, watch)
                if kept:
                    measure_average(job, state)
                save(job, state, store)
                saved = (state.step, state.evaluated_at)
                watch.leave_out(state)
            if state.step == job.clock.total_steps or state.ended:
                if state.ended:
                    trackers.message(f"ended at step {state.step} of {job.clock.total_steps}: {state.ended}")
                return
            started = time.perf_counter()
            if job.data.keeps_waiting:
                # Told to stop meanwhile, no process begins a step that one of them has no images for.
                job.data.wait(state.step, lambda: stop.pending is not None)
                stop.check_now()
            else:
                stop.check()
            loss = train_step(job, state)
            watch.saw(state, loss)
            state.seconds += time.perf_counter() - started
    except Interrupted:
        settle(job, state, watch)
        save(job, state, store)
        raise


def is_to_be_kept(job: Job, state: TrainingState) -> bool:
    """Whether these weights must not be lost: the last, the best of a run that reports its best, or those of a kept step."""
    is_best = job.evaluation.model == "best" and state.best is not None and state.best["step"] == state.step
    keep_every = job.checkpoint.keep_every
    return (
        is_best or bool(state.ended) or (keep_every is not None and job.is_due(job.clock.steps(keep_every), state.step))
    )


def settle(job: Job, state: TrainingState, watch: LossWatch) -> None:
    """Wait until the device has done what it was given, count that time as training, and read the last loss."""
    started = time.perf_counter()
    job.engine.synchronize()
    state.seconds += time.perf_counter() - started
    watch.catch_up()


@dataclass(frozen=True)
class Drawn:
    """The global batch of one update, and everything random about it.

    `indices`: int64 (B,) on the device; `places`: the same where the pixels are gathered; `targets`: int64 (B,) class numbers, or
    under mixing float (B, C) shares; `weight`: what the batch's loss is divided by.
    """

    indices: Tensor
    places: Tensor
    policy: list[augment.Parameters]
    mixed: augment.Mixed | None
    targets: Tensor
    weight: Tensor


def train_step(job: Job, state: TrainingState) -> Tensor:
    """One optimizer update. Returns the loss of the batch, a scalar on the device; only the loss scaler of fp16 waits for it."""
    live = job.live.at(state.step)
    apply_rates(state.optimizer, job.rates.at(state.step, state.schedule))
    if live.dropout is not None:
        set_dropout(state.model, live.dropout)
    batch = draw(job, state.step, live)
    loss, correct = add_gradients(job, state, batch, live)
    passes = 1
    if job.sam is not None and job.sam.is_due(state.step, job.clock):
        second_pass(job, state, batch, live, job.sam)
        passes = 2
    skipped = update(job, state)
    count = torch.full_like(batch.weight, len(batch.indices))
    sums = torch.stack([loss, batch.weight, correct, count, skipped])
    state.sums.values += sums.to(state.sums.values.dtype)
    state.step += 1
    state.images += len(batch.indices)
    state.flops += passes * 3 * job.flops[live.resolution] * len(batch.indices)
    if state.average is not None:
        state.average.update(state.model, state.step)
    return loss / batch.weight


def second_pass(job: Job, state: TrainingState, batch: Drawn, live: LiveValues, sam: SAMSettings) -> None:
    """Put the gradients at the worst point near the weights in the place of those at the weights."""
    trained = [p for group in state.optimizer.param_groups for p in group["params"]]
    with uphill(trained, sam.rho), frozen_norm_statistics(state.model):
        add_gradients(job, state, batch, live)


def draw(job: Job, step: int, live: LiveValues) -> Drawn:
    """The images of update number `step`, and what happens to them."""
    indices, batch = batch_of(job, step)
    # Where pixels wait in main memory, indices that came back from a GPU would have to be waited for.
    places = indices if job.data.gathers_on_device else job.order.at(step)[1]
    targets = job.data.labels[indices]
    mixed = augment.draw_mix(live.mix, len(indices), live.resolution, job.seed, step, indices.device)
    if mixed is not None:
        targets = augment.mixed_labels(targets, job.classes, mixed)
    weight = label_weight(targets, job.class_weights)
    return Drawn(indices, places, augment.draw(live.policy, batch, step), mixed, targets, weight)


def add_gradients(job: Job, state: TrainingState, batch: Drawn, live: LiveValues) -> tuple[Tensor, Tensor]:
    """Forward and backward over the micro-batches of this process: gives the parameters the gradient of the batch's loss.

    Returns the sum of the losses and the number of right answers (under mixing: the sum of the shares that were hit), as the
    gradient over all processes.
    """
    seed_dropout(job.engine.torch_device, seed_from(job.seed, "dropout", state.step, job.world.rank))
    total, correct = torch.zeros((2,), device=batch.indices.device)
    share = job.world.share(len(batch.indices))
    for part in parts(len(batch.indices), job.train.micro_batch, share):
        # Partners are at hand inside whole groups; what is not of this part is cut off again.
        whole = part if batch.mixed is None else augment.mix_groups(part, len(batch.indices))
        images = augment.apply(live.policy, job.data.training(batch.places[whole], state.step), batch.policy, whole)
        images = augment.normalize(images, job.mean, job.std, live.resolution)
        if batch.mixed is not None:
            images = augment.apply_mix(images, batch.mixed, whole)[part.start - whole.start : part.stop - whole.start]
        with job.engine.autocast():
            logits = job.forward(images)
        loss, _ = job.loss(logits, batch.targets[part], live.label_smoothing, job.class_weights)
        job.gradients.expect(last=part.stop == share.stop)
        state.scaler.scale(loss / batch.weight).backward()
        total = total + loss.detach()
        correct = correct + hits(logits.detach(), batch.targets[part])
    return job.gradients.summed(total, correct)


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """How much of the targets the most probable classes hit: float32 scalar; of class numbers the number of right answers."""
    guess = logits.argmax(1)
    if targets.is_floating_point():
        return targets.gather(1, guess[:, None]).sum()
    return (guess == targets).sum().float()


def seed_dropout(device: torch.device, seed: int) -> None:
    """Seed the generators that dropout draws from. Not torch.manual_seed: without a GPU that keeps a note of every call."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def update(job: Job, state: TrainingState) -> Tensor:
    """Clip and apply the gradients, then drop them. Returns 1.0 on the device if they were not finite and were not applied.

    On a GPU nobody waits for the answer, but in fp16 the loss scaler: there such gradients count as zero (momentum and decay go on)
    instead.
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
    indices = sent(indices, device)
    return indices, augment.Batch(indices, epoch, job.seed, job.data.side(step), job.mean, device)


def parts(count: int, micro_batch: int | None, share: slice | None = None) -> Iterator[slice]:
    """Cut a batch of `count` images, or only a share of it, into micro-batches; the last may be short."""
    share = share or slice(0, count)
    for start in range(share.start, share.stop, micro_batch or count):
        yield slice(start, min(start + (micro_batch or count), share.stop))


def label_weight(targets: Tensor, class_weights: Tensor | None) -> Tensor:
    """The weight of a whole batch, which every micro-batch's loss is divided by: float32 scalar."""
    if class_weights is None:
        return torch.full((), float(len(targets)), device=targets.device)
    if targets.is_floating_point():
        return (targets @ class_weights).sum()
    return class_weights[targets].sum()


def describe(job: Job, state: TrainingState) -> dict[str, Any]:
    """Where the run is, and what was in force in its last step."""
    last = max(0, state.step - 1)
    live, rates = job.live.at(last), job.rates.at(last, state.schedule)
    return {
        "step": state.step,
        "epoch": round(job.clock.epoch(state.step), 4),
        "lr": rates.lr,
        **({} if rates.momentum is None else {"momentum": rates.momentum}),
        "resolution": live.resolution,
        "label_smoothing": live.label_smoothing,
        **({} if live.dropout is None else {"dropout": live.dropout}),
        **({"mixed": 1.0 - live.mix.clean if live.mix.methods else 0.0} if job.live.mixes else {}),
    }


def evaluation_record(job: Job, state: TrainingState) -> dict[str, Any]:
    """One line of metrics.jsonl: training means since the last line, live values, validation numbers. Marks it as written.

    The state changes only after evaluation has come to its end, so that an interruption in between loses nothing.
    """
    numbers = validation_numbers(job, state)
    sums = require_finite(state)
    record: dict[str, Any] = {
        **describe(job, state),
        **sums,
        **numbers,
        "seconds": round(state.seconds, 3),
        "images_per_second": round(state.images / state.seconds, 1) if state.seconds else 0.0,
        "pflop": state.flops / 1e15,
    }
    if job.evaluation.optimistic:
        record["validation_is_test"] = True
    schedule = job.rates.observe(state.schedule, record, state.step)
    watched, ended = stopping.observe(job.stop, state.watched, record, state.step, job.clock)
    state.schedule, state.watched, state.ended = schedule, watched, ended
    state.skipped_updates += int(sums["skipped_updates"])
    state.sums.values.zero_()
    state.evaluated_at = state.step
    note_best(state, record)
    return record


def validation_numbers(job: Job, state: TrainingState) -> dict[str, float]:
    """What the split that selects says of the weights and of their average. {} without one.

    The average gets its batch-norm statistics here, wherever it is evaluated or the run may end.
    """
    if job.evaluate is not None or job.stop.metrics or state.step == job.clock.total_steps:
        measure_average(job, state)
    if job.evaluate is None:
        return {}
    numbers = job.evaluate(state.model)
    if state.average is not None and state.average.ready:
        numbers |= {f"average_{key}": value for key, value in job.evaluate(state.average.network).items()}
    return numbers


def measure_average(job: Job, state: TrainingState) -> None:
    """Give the average the batch-norm statistics of its own weights, if it has not got them yet."""
    if state.average is not None and lacks_norms_of_average(state):
        state.average.refresh_norms(job.norm_images(), job.engine.autocast, job.check)


def lacks_norms_of_average(state: TrainingState) -> bool:
    """Whether there is an average whose batch-norm statistics are not those of its weights."""
    return state.average is not None and state.average.ready and not state.average.fresh


def note_best(state: TrainingState, record: dict[str, Any]) -> None:
    """Remember the step whose reported weights did best so far. The trained weights count only until there is an average."""
    key = "average_validation_top1" if state.reports_average and state.averaged else "validation_top1"
    if key not in record:
        return
    first_of_average = state.best is not None and key != state.best.get("metric", key)
    if state.best is None or first_of_average or record[key] > state.best["validation_top1"]:
        state.best = {"step": state.step, "validation_top1": record[key], "metric": key}


def require_finite(state: TrainingState) -> dict[str, float]:
    """The training means since the last line. `NonFiniteLoss` if any loss since then was infinite or not a number."""
    sums = state.sums.read()
    if state.sums.images and not math.isfinite(sums["train_loss"]):
        raise NonFiniteLoss(
            f"the loss became {sums['train_loss']} between step {max(0, state.evaluated_at)} and step {state.step}",
            hint=CALM,
        )
    return sums


def save(job: Job, state: TrainingState, store: CheckpointStore) -> None:
    """Write a checkpoint, with the engine that the run has to go on with; process 0 does. A run that has diverged is not saved."""
    require_finite(state)
    if job.world.is_main:
        store.save(state, job.engine.to_dict())
