"""From a recipe to everything that training and evaluation need: data, network, optimizer, job, state."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from groundup import augment
from groundup.basis.duration import Clock
from groundup.basis.errors import GroundupError
from groundup.basis.interruption import StopRequest
from groundup.basis.seeding import permutation
from groundup.data import MemoryLoader, Splits, load_splits
from groundup.evaluation import TTA, collect_logits, nll, top_k
from groundup.models import build_model, forward_flops
from groundup.preflight import check_essentials
from groundup.recipe import Recipe
from groundup.training import (
    Engine,
    Job,
    LiveSchedule,
    LiveValues,
    SampleOrder,
    Sums,
    TrainingState,
    check_agreement,
    compile_network,
)

# Images that data-dependent initial weights (a whitening stem) may look at.
_FIRST_LOOK = 5000 * 32 * 32  # pixels


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


def open_data(recipe: Recipe, stop: StopRequest, progress: Callable[[int, int], None] | None = None) -> Splits:
    """The splits of the recipe's data, decoded now if they are not in the cache."""
    return load_splits(recipe.data, check=stop.check, progress=progress)


def with_measured_constants(recipe: Recipe, splits: Splits) -> Recipe:
    """The recipe with `augment.normalize` filled in from the training split where it was left out."""
    constants = recipe.augment.normalize
    if constants.mean is not None and constants.std is not None:
        return recipe
    mean, std = augment.measure(splits.train.to_device("cpu")[0])
    filled = constants.model_copy(update={"mean": constants.mean or mean, "std": constants.std or std})
    return recipe.model_copy(update={"augment": recipe.augment.model_copy(update={"normalize": filled})})


def make_plan(recipe: Recipe, splits: Splits) -> Plan:
    """Check the recipe against its data. UsageError names what does not fit."""
    train = recipe.train
    order = SampleOrder(
        recipe.seed,
        torch.from_numpy(splits.train.labels),
        batch_size=train.batch_size,
        drop_last=train.drop_last,
        balanced=train.sampling == "balanced",
    )
    clock = recipe.clock(order.steps_per_epoch)
    smoothing = recipe.loss.label_smoothing
    base = LiveValues(train.resolution or splits.image_size, recipe.augment.policy, smoothing)
    live = LiveSchedule.of(base, recipe.phases, clock)
    check_essentials(recipe, splits, clock, live)
    return Plan(recipe, splits, order, clock, live)


def build_network(plan: Plan, engine: Engine, own: nn.Module | None = None) -> nn.Module:
    """The network with its initial weights, a function of (recipe, data), on the engine's device. `own` replaces the recipe's."""
    recipe, splits = plan.recipe, plan.splits
    model = own or build_model(recipe.model, num_classes=len(splits.classes), seed=recipe.seed)
    if isinstance(model, LooksAtImages):
        # Any images, not the first ones: folders are stored class by class.
        count = max(64, _FIRST_LOOK // splits.image_size**2)
        shown = permutation(len(splits.train), recipe.seed, "first look")[:count].numpy()
        images = splits.train.subset(shown).to_device("cpu")[0].permute(0, 3, 1, 2)
        model.initialize_from(augment.normalize(images, *constants(recipe)))
    if engine.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(engine.torch_device)


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


def build_job(plan: Plan, engine: Engine, model: nn.Module, check: Callable[[], None]) -> tuple[Job, TrainingState]:
    """The job and its state before the first step. With a compiled engine, compiled and eager are compared here."""
    recipe, splits, device = plan.recipe, plan.splits, engine.torch_device
    mean, std = constants(recipe)
    optimizer = recipe.optimizer.build(model)
    weights = recipe.loss.weights(torch.from_numpy(splits.train.labels), len(splits.classes))
    loader = MemoryLoader(splits.train, device)
    flops = {size: forward_flops(model, size) for size in plan.live.resolutions()}
    forward: Callable[[Tensor], Tensor] = model
    if engine.compiled:
        sample = loader.take(plan.order.at(0)[1][: recipe.train.micro_batch])[0]
        shapes = [augment.normalize(sample, mean, std, size) for size in plan.live.resolutions()]
        engine, forward = _compiled_if_it_agrees(recipe, model, engine, shapes, check)
    job = Job(
        seed=recipe.seed,
        clock=plan.clock,
        engine=engine,
        train=recipe.train,
        schedule=recipe.schedule,
        live=plan.live,
        evaluation=recipe.evaluate,
        checkpoint=recipe.checkpoint,
        data=loader,
        order=plan.order,
        image_size=splits.image_size,
        mean=mean,
        std=std,
        class_weights=None if weights is None else weights.to(device),
        flops=flops,
        forward=forward,
        evaluate=_validation(plan, engine, model, check),
        step_every=recipe.track.step_every,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=engine.precision == "fp16")
    return job, TrainingState(model=model, optimizer=optimizer, scaler=scaler, sums=Sums.zeros(device))


def _compiled_if_it_agrees(
    recipe: Recipe, model: nn.Module, engine: Engine, shapes: list[Tensor], check: Callable[[], None]
) -> tuple[Engine, Callable[[Tensor], Tensor]]:
    """The compiled network, compared with the eager one on a batch per input size. Where the recipe left it to us to compile, a
    difference means to go on eager and to say why; where it asked for it, GroundupError."""
    compiled = compile_network(model)
    try:
        for images in shapes:
            check()
            check_agreement(model, compiled, [images], engine)
    except GroundupError as error:
        if recipe.train.compile == "always":
            raise
        return replace(engine, compiled=False, why=f"eager: {error.message}"), model
    return engine, compiled


def _validation(
    plan: Plan, engine: Engine, model: nn.Module, check: Callable[[], None]
) -> Callable[[], dict[str, float]] | None:
    """What the loop calls to evaluate the validation split; None if there is none."""
    if plan.splits.validation is None:
        return None
    loader = MemoryLoader(plan.splits.validation, engine.torch_device)

    def evaluate() -> dict[str, float]:
        logits, labels = logits_of(model, loader, plan.recipe, engine, check)
        return {"validation_loss": nll(logits, labels), "validation_top1": top_k(logits, labels, 1)}

    return evaluate
