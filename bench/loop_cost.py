"""What the loop costs: images/s of groundup's training steps over those of a bare loop with the same network, batch and precision.

The bare loop makes the same updates (the last of the run: same input size, batch, micro-batches, operations) with the data on
the device, and nothing else: no seeds, no sums, no tracking. Ours tells the terminal, TensorBoard and metrics.jsonl of its steps,
as `groundup train` does. Left out of both, whatever the recipe says: checkpoints, validation, an average, mixing, SAM, clipping,
class weights; the loss is cross-entropy. They are timed in turn in one process, each first in every other round, and the ratio is
taken round by round.

    python bench/loop_cost.py [RECIPE] [KEY=VALUE ...] [--rounds 7] [--steps 20] [--out bench/results/loop_cost.json]

--generated N: noise of 32 px, N images of 100 classes, in place of the recipe's data.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from generated import noise
from kept import keep

from groundup import augment
from groundup.basis.errors import UsageError
from groundup.basis.interruption import StopRequest
from groundup.optim import apply_rates, cross_entropy, loss_parts
from groundup.recipe import load_recipe
from groundup.runs.folder import environment
from groundup.runs.prepare import first_job, make_plan, open_data, with_measured_constants
from groundup.tracking import MetricsFile, TensorBoardTracker, TerminalTracker, Trackers
from groundup.training import CheckpointStore, Job, StopSettings, TrainingState, train


def comparable(job: Job, state: TrainingState) -> Job:
    """The job without what our loop would do and the bare one does not."""
    state.average = None
    live = job.live
    unmixed = replace(
        live,
        base=replace(live.base, mix=augment.MixSettings()),
        changes=tuple((step, {key: value for key, value in new.items() if key != "mix"}) for step, new in live.changes),
    )
    unclipped = job.train.model_copy(update={"clip_norm": None})
    return replace(
        job,
        evaluate=None,
        sam=None,
        loss=loss_parts,
        class_weights=None,
        stop=StopSettings(),
        train=unclipped,
        live=unmixed,
    )


def bare_loop(job: Job, state: TrainingState, first: int, steps: int) -> None:
    """The least that a hand-written script would do for the same updates: no seeds, no sums, no state."""
    model, optimizer, device = state.model, state.optimizer, job.engine.torch_device
    live = job.live.at(first)
    generator = torch.Generator(device=device)
    order = torch.randperm(len(job.data)).to(device)
    size, most = job.train.batch_size, job.train.micro_batch or job.train.batch_size
    starts = [size * i for i in range(len(order) // size)]
    model.train()
    for step in range(first, first + steps):
        start = starts[step % len(starts)]
        apply_rates(optimizer, job.rates.at(step, state.schedule))
        for indices in order[start : start + size].split(most):
            batch = augment.Batch(indices, 0, job.seed, job.image_size, job.mean, device)
            images, labels = job.data.take(indices)
            for operation in live.policy:
                images = operation.apply(images, operation.draw(batch, generator))
            images = augment.normalize(images, job.mean, job.std, live.resolution)
            with job.engine.autocast():
                logits = job.forward(images)
            (cross_entropy(logits, labels, live.label_smoothing) * (len(indices) / size)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    job.engine.synchronize()


def our_loop(job: Job, state: TrainingState, trackers: Trackers) -> None:
    """The product's own loop from the state's step to the end of the job, with its checkpoint at the end left out."""
    train(job, state, NoCheckpoints(Path("unused")), trackers, StopRequest())


@contextmanager
def tracked(total_steps: int, epochs: float) -> Iterator[Trackers]:
    """What hears of the steps of `groundup train`: the terminal, TensorBoard, metrics.jsonl."""
    with tempfile.TemporaryDirectory(prefix="groundup-") as folder:
        place = Path(folder)
        trackers = Trackers(
            [TerminalTracker(), TensorBoardTracker(place / "tensorboard", None)],
            essential=[MetricsFile(place / "metrics.jsonl")],
        )
        trackers.start({"name": "loop_cost", "total_steps": total_steps, "step": 0, "epochs": epochs, "recipe": {}})
        try:
            yield trackers
        finally:
            trackers.close()


class NoCheckpoints(CheckpointStore):
    """Both contestants are timed between checkpoints: a bare loop writes none."""

    def save(self, state: TrainingState, engine: object) -> Path:
        return self.folder


def seconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="digits")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--generated", type=int, metavar="N", help="Train on N generated images of 32 px.")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    recipe = load_recipe(chosen.recipe, chosen.overrides)
    if recipe.data.cache == "none" or recipe.data.streaming:
        raise UsageError("data.cache=none: the bare loop decodes nothing ahead", hint="give data.cache=device")
    splits = noise(chosen.generated, 100) if chosen.generated else open_data(recipe, StopRequest())
    plan = make_plan(with_measured_constants(recipe, splits), splits)
    job, state = first_job(plan, lambda: None)
    job = comparable(job, state)
    engine = job.engine
    total = plan.clock.total_steps
    first = total - chosen.steps
    pairs = []
    with tracked(total, recipe.train.epochs) as trackers:

        def bare() -> None:
            bare_loop(job, state, first, chosen.steps)

        def ours() -> None:
            state.step = state.evaluated_at = first
            our_loop(job, state, trackers)

        for round_ in range(chosen.rounds + 1):
            turns = (bare, ours) if round_ % 2 else (ours, bare)
            taken = {turn: seconds(turn) for turn in turns}
            pairs.append((taken[bare], taken[ours]))
    pairs = pairs[1:]  # the first round warms up
    rounds = [bare / ours for bare, ours in pairs]
    images = chosen.steps * recipe.train.batch_size
    result = {
        "what": "images/s of groundup's loop over those of a bare loop, round by round",
        "recipe": recipe.name,
        "overrides": chosen.overrides,
        "ratio_median": statistics.median(rounds),
        "ratio_min": min(rounds),
        "ratio_max": max(rounds),
        "images_per_second": images / statistics.median(ours for _, ours in pairs),
        "rounds": len(pairs),
        "steps_per_round": chosen.steps,
        "resolution": job.live.at(first).resolution,
        "generated_images": chosen.generated,
        "engine": engine.to_dict(),
        **environment(engine),
    }
    keep(result, chosen.out)


if __name__ == "__main__":
    main()
