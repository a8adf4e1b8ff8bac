"""Where the time of a training step goes: its parts, each made and timed alone, with the device waited for in between.

Parts that a GPU would overlap are not overlapped here, so their sum may be more than a step takes; `other` is what the parts leave
of it, at least 0 (bookkeeping, drawing the batch's numbers, waiting).
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from groundup import augment
from groundup.optim import apply_rates
from groundup.training import Job, TrainingState
from groundup.training.loop import draw, parts, second_pass, train_step, update

PARTS = ("data", "augment", "forward", "backward", "sam", "optimizer", "average")


def seconds_by_part(job: Job, state: TrainingState, steps: Iterator[int], rounds: int = 5) -> dict[str, float]:
    """Median seconds, over `rounds` pairs of updates with the numbers that `steps` gives, of: `data` (gather the pixels, or wait
    until they are decoded), `augment` (augmentation, normalisation, mixing), `forward` (network and loss), `backward`, `sam` (its
    second pass over the batch, pixels and augmentation included), `optimizer` (clip and update), `average` and `other`."""
    timed: dict[str, list[float]] = {name: [] for name in (*PARTS, "step")}
    for _ in range(rounds):
        state.step = next(steps)
        state.model.train()
        started = time.perf_counter()
        train_step(job, state)
        job.engine.synchronize()
        timed["step"].append(time.perf_counter() - started)
        state.step = next(steps)
        for name, seconds in _round(job, state).items():
            timed[name].append(seconds)
    median = {name: statistics.median(values) for name, values in timed.items()}
    whole = median.pop("step")
    return {**median, "other": max(0.0, whole - sum(median.values()))}


def _round(job: Job, state: TrainingState) -> dict[str, float]:
    live = job.live.at(state.step)
    apply_rates(state.optimizer, job.rates.at(state.step, state.schedule))
    batch = draw(job, state.step, live)
    spent = dict.fromkeys(PARTS, 0.0)

    def timed(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        result = call(*arguments)
        job.engine.synchronize()
        spent[name] += time.perf_counter() - started
        return result

    def prepare(images: Tensor, part: slice) -> Tensor:
        images = augment.apply(live.policy, images, batch.policy, part)
        images = augment.normalize(images, job.mean, job.std, live.resolution)
        return images if batch.mixed is None else augment.apply_mix(images, batch.mixed, part)

    def loss_of(images: Tensor, part: slice) -> Tensor:
        with job.engine.autocast():
            logits = job.forward(images)
        loss, _ = job.loss(logits, batch.targets[part], live.label_smoothing, job.class_weights)
        return state.scaler.scale(loss / batch.weight)

    for part in parts(len(batch.indices), job.train.micro_batch):
        pixels = timed("data", job.data.training, batch.places[part], state.step)
        images = timed("augment", prepare, pixels, part)
        timed("backward", timed("forward", loss_of, images, part).backward)
    if job.sam is not None and job.sam.is_due(state.step, job.clock):
        timed("sam", second_pass, job, state, batch, live, job.sam)
    timed("optimizer", update, job, state)
    if state.average is not None:
        timed("average", state.average.update, state.model, state.step + 1)
    return spent


def shares(seconds: dict[str, float]) -> dict[str, float]:
    """The share of the step that each part takes, 0 to 1: of the parts' sum where that is more than the step."""
    parts_alone = {name: value for name, value in seconds.items() if name != "step"}
    whole = max(seconds["step"], sum(parts_alone.values()))
    return {name: value / whole for name, value in parts_alone.items()}
