"""From a recipe to everything that training and evaluation need: data, network, optimizer, job, state."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from groundup import augment
from groundup.basis.duration import Clock
from groundup.basis.errors import GroundupError, UsageError
from groundup.basis.interruption import StopRequest
from groundup.data import DataSettings, ImageSet, MemoryLoader, Splits, load_splits, some_positions, windowed_order
from groundup.evaluation import TTA, collect_logits, nll, top_k
from groundup.models import build_model, forward_flops
from groundup.preflight import Subject, check_essentials, refuse_lone_images, timetable
from groundup.recipe import Recipe
from groundup.runs.from_disk import decodes_batches, training_loader, without_cuts
from groundup.tracking import Tracker
from groundup.training import (
    Average,
    Engine,
    Job,
    LiveSchedule,
    NoAverage,
    Rates,
    SampleOrder,
    Sums,
    TrainingState,
    World,
    check_agreement,
    check_equal_parts,
    choose_engine,
    compile_network,
    first_passes,
    gradients_of,
    share_of,
    warm_up,
)
from groundup.training.loop import parts

AtOnce = Callable[[Callable[[], None]], None]

# Images that data-dependent initial weights (a whitening stem) may look at.
_FIRST_LOOK = 5000 * 32 * 32  # pixels
# Images of a stream that mean and standard deviation are measured on, where the recipe leaves them out.
_MEASURED = 10_000
# Batches that the batch-norm statistics of an average are computed from, at most.
NORM_BATCHES = 100


@runtime_checkable
class LooksAtImages(Protocol):
    """A network whose initial weights depend on the data, such as a whitening stem."""

    def initialize_from(self, images: Tensor) -> None:
        """Finish the initial weights from normalised training images, float (N, 3, S, S)."""


@dataclass(frozen=True)
class Plan:
    """A recipe against its data, checked: what is known before anything heavy is built."""

    recipe: Recipe
    splits: Splits
    order: SampleOrder
    clock: Clock
    live: LiveSchedule
    rates: Rates


def open_data(recipe: Recipe, stop: StopRequest, progress: Callable[[int, int], None] | None = None) -> Splits:
    """The splits of the recipe's data, decoded now if they are not in the cache."""
    return load_splits(recipe.data, check=stop.check, progress=progress)


def told_in_tenths(tracker: Tracker, data: DataSettings) -> Callable[[int, int], None]:
    """Tells the tracker of every tenth of the images that has been decoded; of a stream, of the shards that have been indexed."""
    told = 0
    what = "indexing shards" if data.streaming else "decoding images"

    def progress(done: int, total: int) -> None:
        nonlocal told
        if (tenth := 10 * done // total) > told:
            told = tenth
            tracker.message(f"{what}: {done:,} of {total:,}")

    return progress


def with_measured_constants(recipe: Recipe, splits: Splits) -> Recipe:
    """The recipe with `augment.normalize` filled in from the training split where it was left out."""
    constants = recipe.augment.normalize
    if constants.mean is not None and constants.std is not None:
        return recipe
    measured = splits.train
    if recipe.data.streaming:  # all of it would be all there is to read; the same images for every seed of a recipe
        measured = measured.subset(some_positions(measured, _MEASURED, recipe.data.split_seed, "constants"))
    mean, std = augment.measure(measured.blocks())
    filled = constants.model_copy(update={"mean": constants.mean or mean, "std": constants.std or std})
    return recipe.model_copy(update={"augment": recipe.augment.model_copy(update={"normalize": filled})})


def make_plan(recipe: Recipe, splits: Splits) -> Plan:
    """Check the recipe against its data. UsageError names what does not fit."""
    train = recipe.train
    if train.finds_batch_size:
        raise UsageError(
            "train.batch_size=auto: is found where a run begins (train, check, bench, lr-find); here it has to be a number",
            hint="`groundup check` with train.batch_size=auto says which it finds",
        )
    order = SampleOrder(
        recipe.seed,
        torch.from_numpy(splits.train.labels),
        batch_size=train.batch_size,
        drop_last=train.drop_last,
        balanced=train.sampling == "balanced",
        windows=windowed_order(splits.train, recipe.data.shuffle_window),
    )
    clock = recipe.clock(order.steps_per_epoch)
    live, rates = timetable(recipe, clock, splits.image_size)
    check_essentials(recipe, splits, clock, live, rates)
    return Plan(recipe, splits, order, clock, live, rates)


def subject_with(plan: Plan, network: nn.Module, processes: int = 1) -> Subject:
    """What the static checks look at, of a plan, its network, and how many processes train together."""
    splits = plan.splits
    labels = torch.from_numpy(splits.train.labels)
    return Subject(
        plan.recipe,
        plan.clock,
        plan.live,
        plan.rates,
        classes=len(splits.classes),
        image_size=splits.image_size,
        train_images=len(splits.train),
        labels=labels,
        network=network,
        splits=splits,
        processes=processes,
    )


def build_network(plan: Plan, engine: Engine, own: nn.Module | None = None) -> nn.Module:
    """The network with its initial weights, a function of (recipe, data), on the engine's device. `own` replaces the recipe's."""
    recipe, splits = plan.recipe, plan.splits
    model = own or build_model(recipe.model, num_classes=len(splits.classes), seed=recipe.seed)
    if isinstance(model, LooksAtImages):
        # Any images, not the first ones: folders are stored class by class.
        count = max(64, _FIRST_LOOK // splits.image_size**2)
        shown = some_positions(splits.train, count, recipe.seed, "first look")
        images = splits.train.subset(shown).to_device("cpu")[0].permute(0, 3, 1, 2)
        model.initialize_from(augment.normalize(images, *constants(recipe)))
    return engine.take(model)


def synchronize_norms(plan: Plan, network: nn.Module, world: World) -> None:
    """Let batch norm see the images of all processes, in place, if the recipe asks for it."""
    train = plan.recipe.train
    if not (train.sync_batch_norm and world.is_shared):
        return
    check_equal_parts(world, _batches(plan), train.micro_batch)
    if nn.SyncBatchNorm.convert_sync_batchnorm(network) is not network:
        raise UsageError("train.sync_batch_norm: the network is a batch norm and nothing else; put it into a module")


def _batches(plan: Plan) -> set[int]:
    """How many images the batches of the run have: the last of an epoch may be short."""
    train = plan.recipe.train
    short = 0 if train.drop_last else len(plan.splits.train) % train.batch_size
    return {train.batch_size, short} - {0}


def forward_counts(plan: Plan, world: World) -> list[int]:
    """How many images the forward passes of this process have, every number once, the largest first. With synchronised norms every
    pass, in an order that all processes share: in each of them the norms wait for the others."""
    train = plan.recipe.train
    batches = sorted(_batches(plan), reverse=True)
    cut = [part for count in batches for part in parts(count, train.micro_batch, world.share(count))]
    counts = [part.stop - part.start for part in cut]
    return counts if train.sync_batch_norm and world.is_shared else sorted(set(counts), reverse=True)


def constants(recipe: Recipe) -> tuple[augment.Colour, augment.Colour]:
    """Mean and standard deviation, which `with_measured_constants` has filled in."""
    chosen = recipe.augment.normalize
    assert chosen.mean is not None
    assert chosen.std is not None
    return chosen.mean, chosen.std


def evaluation_batches(loader: MemoryLoader, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images, float32 (B, 3, S, S), and labels, in order."""
    mean, std = constants(recipe)
    for images, labels in loader.batches(recipe.evaluate.batch_size):
        yield augment.normalize(images, mean, std), labels


def logits_of(
    model: nn.Module, loader: MemoryLoader, recipe: Recipe, engine: Engine, check: Callable[[], None], tta: str = "none"
) -> tuple[Tensor, Tensor]:
    """Logits, float32 (N, C), and labels, int64 (N,), of a whole split, on the CPU."""
    batches = evaluation_batches(loader, recipe)
    return collect_logits(model, batches, forward=TTA[tta], autocast=engine.autocast, check=check)


@dataclass(frozen=True)
class SharedSplit:
    """A split of which each process evaluates its share, no image twice. `largest`: images in the largest share."""

    loader: MemoryLoader
    images: int
    largest: int
    classes: int

    @classmethod
    def of(cls, split: ImageSet, plan: Plan, engine: Engine, world: World) -> "SharedSplit":
        share, largest = world.share(len(split)), share_of(len(split), 0, world.size).stop
        own = split if world.size == 1 else split.subset(np.arange(share.start, share.stop))
        loader = MemoryLoader(own, engine.torch_device, plan.recipe.data.cache)
        return cls(loader, len(split), largest, len(plan.splits.classes))

    def logits(
        self, model: nn.Module, recipe: Recipe, engine: Engine, check: Callable[[], None]
    ) -> tuple[Tensor, Tensor]:
        """Logits and labels of this process's share, as `logits_of`; (0, C) and (0,) of an empty one."""
        size = recipe.evaluate.batch_size
        checked = -(-len(self.loader) // size)
        if checked:
            logits, labels = logits_of(model, self.loader, recipe, engine, check)
        else:
            logits, labels = torch.zeros(0, self.classes), torch.zeros(0, dtype=torch.long)
        for _ in range(checked, -(-self.largest // size)):
            check()  # every process makes the same checks: they agree on stopping there
        return logits, labels


def build_job(
    plan: Plan,
    engine: Engine,
    model: nn.Module,
    check: Callable[[], None],
    world: World | None = None,
    at_once: AtOnce | None = None,
) -> tuple[Job, TrainingState]:
    """The job and its state before the first step. With a compiled engine, compiled and eager are compared here. `world`: the
    processes that train together; `check` is then one that they make together. `at_once`: does the compiling, and may stop in the
    middle of it (see `StopRequest.at_once`)."""
    world = world or World()
    recipe, splits, device = plan.recipe, plan.splits, engine.torch_device
    mean, std = constants(recipe)
    optimizer = recipe.optimizer.build(model, bfloat16=engine.precision == "bf16")
    weights = recipe.loss.weights(torch.from_numpy(splits.train.labels), len(splits.classes))
    loader = training_loader(recipe, splits, plan.order, plan.live, plan.clock.total_steps, device, world)
    flops = {size: forward_flops(model, size) for size in plan.live.resolutions()}
    forward: Callable[[Tensor], Tensor] = model
    # What happens once for each shape happens before the first step.
    chooses_kernels = device.type == "cuda" and not (recipe.train.sync_batch_norm and world.is_shared)
    if engine.compiled or chooses_kernels:
        counts = forward_counts(plan, world)
        sample = loader.take(plan.order.at(0)[1][: max(counts, default=0)])[0]
        shapes = (augment.normalize(sample[:n], mean, std, size) for size in plan.live.resolutions() for n in counts)
        # Processes may differ in how far they get there, so their checks would not meet.
        alone = check if world.size == 1 else lambda: None
        if not engine.compiled:
            first_passes(model, shapes, engine, alone)
    if engine.compiled:
        at_once = at_once or (lambda work: work())
        engine, forward = _compiled_if_it_agrees(recipe, model, engine, shapes, alone, at_once, plan.live)
        if not world.all_agree(engine.compiled) and engine.compiled:
            engine, forward = replace(engine, compiled=False, why="eager: compiling failed in another process"), model
    job = Job(
        seed=recipe.seed,
        clock=plan.clock,
        engine=engine,
        train=recipe.train,
        rates=plan.rates,
        live=without_cuts(plan.live) if decodes_batches(recipe, splits) else plan.live,
        evaluation=recipe.evaluate,
        checkpoint=recipe.checkpoint,
        data=loader,
        order=plan.order,
        classes=len(splits.classes),
        image_size=splits.image_size,
        mean=mean,
        std=std,
        class_weights=None if weights is None else weights.to(device),
        flops=flops,
        forward=forward,
        evaluate=_validation(plan, engine, check, world),
        norm_images=lambda: clean_images(recipe, loader),
        loss=recipe.loss.parts,
        check=check,
        sam=recipe.optimizer.sam,
        stop=recipe.stop,
        step_every=recipe.track.step_every,
        world=world,
        gradients=gradients_of(model, world),
    )
    scaler = torch.amp.GradScaler(device.type, enabled=engine.precision == "fp16")
    scaler.scale(torch.zeros((), device=device))  # it has to know its scale where a process's first part is empty
    state = TrainingState(
        model=model,
        optimizer=optimizer,
        scaler=scaler,
        sums=Sums.zeros(device),
        schedule=plan.rates.memory(),
        average=None if isinstance(recipe.average, NoAverage) else Average(recipe.average, model, plan.clock),
        reports_average=reports_average(recipe),
    )
    return job, state


def reports_average(recipe: Recipe) -> bool:
    """Whether the recipe's result is that of the average of its weights."""
    return recipe.evaluate.weights != "model" and not isinstance(recipe.average, NoAverage)


def clean_images(recipe: Recipe, loader: MemoryLoader) -> Iterator[Tensor]:
    """Normalised training images as evaluation sees them, fixed by the seed: float32 (B, 3, S, S), batch after batch."""
    mean, std = constants(recipe)
    size = max(2, recipe.evaluate.batch_size)
    shown = loader.some(NORM_BATCHES * size, recipe.seed, "norm statistics")
    for chunk in shown.split(size):
        if len(chunk) > 1 or len(shown) == 1:  # one image alone has no spread
            yield augment.normalize(loader.take(chunk.to(loader.labels.device))[0], mean, std)


def _compiled_if_it_agrees(
    recipe: Recipe,
    model: nn.Module,
    engine: Engine,
    shapes: Iterable[Tensor],
    check: Callable[[], None],
    at_once: AtOnce,
    live: LiveSchedule,
) -> tuple[Engine, Callable[[Tensor], Tensor]]:
    """The compiled network, compared with the eager one on a batch per shape, and compiled for every dropout that it will train
    with. Where the recipe left it to us to compile, a failure or a difference means to go on eager and to say why; where it
    asked for it, GroundupError."""
    compiled = compile_network(model)
    try:
        for images in shapes:
            check()
            at_once(partial(check_agreement, model, compiled, [images], engine))
            for dropout in {live.dropout for live in live.everything() if live.resolution == images.shape[-1]}:
                at_once(partial(warm_up, model, compiled, images, engine, dropout))
    except GroundupError as error:
        if recipe.train.compile == "always":
            raise
        return replace(engine, compiled=False, why=f"eager: {error.message}"), model
    return engine, compiled


def _validation(
    plan: Plan, engine: Engine, check: Callable[[], None], world: World
) -> Callable[[nn.Module], dict[str, float]] | None:
    """What the loop calls to evaluate the split that selects: validation, or test where the recipe is optimistic; None without."""
    split = plan.splits.test if plan.recipe.evaluate.optimistic else plan.splits.validation
    if split is None:
        return None
    shared = SharedSplit.of(split, plan, engine, world)

    def evaluate(model: nn.Module) -> dict[str, float]:
        logits, labels = shared.logits(model, plan.recipe, engine, check)
        if world.size == 1:
            return {"validation_loss": nll(logits, labels), "validation_top1": top_k(logits, labels, 1)}
        sums = torch.zeros(2, dtype=torch.float64)  # of the loss and of right answers
        if len(labels):
            sums = torch.tensor([nll(logits, labels), top_k(logits, labels, 1)], dtype=torch.float64) * len(labels)
            sums[1].round_()
        loss, correct = world.sum(sums).tolist()
        return {"validation_loss": loss / shared.images, "validation_top1": correct / shared.images}

    return evaluate


def first_job(plan: Plan, check: Callable[[], None], own: nn.Module | None = None) -> tuple[Job, TrainingState]:
    """The job of a plan on this machine, and its state before the first step: what is measured or tried out without a run
    folder. `own`: a network in place of the recipe's. The engine is active from here on."""
    engine = choose_engine(plan.recipe.train, plan.clock.total_steps)
    engine.activate()
    network = build_network(plan, engine, own)
    refuse_lone_images(subject_with(plan, network))
    return build_job(plan, engine, network, check)
