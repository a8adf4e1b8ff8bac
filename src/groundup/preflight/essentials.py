"""What would make a run fail or mean nothing, found before the first step: cheap, without touching the network."""

from collections.abc import Iterator, Sequence

from groundup.augment import MIX_GROUP, CoarseDropout, Cutout, OneOf, Operation
from groundup.basis.duration import Clock
from groundup.basis.errors import UsageError
from groundup.data import Splits
from groundup.recipe import Recipe
from groundup.training import LiveSchedule, NoAverage, Rates


def check_essentials(recipe: Recipe, splits: Splits, clock: Clock, live: LiveSchedule, rates: Rates) -> None:
    """UsageError for the first thing in the recipe that this data or this length of run does not allow."""
    rates.check()
    if not isinstance(recipe.average, NoAverage):
        recipe.average.check(clock)
    if recipe.optimizer.sam is not None:
        recipe.optimizer.sam.check(clock)
    _check_sizes(recipe, splits, live)
    _check_padding(splits, live)
    _check_holes(splits, live)
    _check_mixing(recipe, live)
    _check_dropout(recipe, live)
    _check_selection(recipe, splits, rates)


def _flat(policy: Sequence[Operation]) -> Iterator[Operation]:
    """The operations of a policy, those inside `one_of` too."""
    for operation in policy:
        yield operation
        if isinstance(operation, OneOf):
            yield from _flat(operation.members())


def _check_mixing(recipe: Recipe, live: LiveSchedule) -> None:
    size = recipe.train.micro_batch
    if live.mixes and size is not None and size % MIX_GROUP and size < recipe.train.batch_size:
        below = max(MIX_GROUP, size // MIX_GROUP * MIX_GROUP)
        raise UsageError(
            f"train.micro_batch={size}: mixing pairs images inside groups of {MIX_GROUP}; allowed: multiples of {MIX_GROUP}",
            hint=f"set train.micro_batch={below}",
        )


def _check_dropout(recipe: Recipe, live: LiveSchedule) -> None:
    if any("dropout" in change for _, change in live.changes) and not hasattr(recipe.model, "dropout"):
        raise UsageError(
            f"phases: model.dropout is set, but model.name={recipe.model.name!r} has no dropout inside its blocks",
            hint="remove model.dropout from the phases, or choose a resnet, preact_resnet18 or wide_resnet",
        )


def _check_sizes(recipe: Recipe, splits: Splits, live: LiveSchedule) -> None:
    smallest = recipe.model.smallest_image
    sizes = {"the images": splits.image_size, **{f"train.resolution={size}": size for size in live.resolutions()}}
    for what, size in sizes.items():
        if size < smallest:
            raise UsageError(
                f"model.name={recipe.model.name!r}: {what} give {size} px a side; this network takes {smallest} px or more",
                hint=f"set data.resolution={smallest} or more, or choose another model",
            )


def _check_padding(splits: Splits, live: LiveSchedule) -> None:
    for operation in (operation for values in live.everything() for operation in _flat(values.policy)):
        pad = getattr(operation, "pad", 0)
        if pad >= splits.image_size:
            raise UsageError(
                f"augment.policy: pad_crop.pad={pad}: the images have {splits.image_size} px a side; allowed: less than that",
                hint="set augment.policy.pad_crop.pad to about an eighth of the image's side",
            )


def _check_holes(splits: Splits, live: LiveSchedule) -> None:
    for operation in (operation for values in live.everything() for operation in _flat(values.policy)):
        if isinstance(operation, Cutout):
            key, side = "size", float(operation.size)
        elif isinstance(operation, CoarseDropout) and operation.unit == "px":
            key, side = "side", operation.side[1]
        else:
            continue
        if side > splits.image_size:
            raise UsageError(
                f"augment.policy: {operation.name}.{key}={side:g} px: the images have {splits.image_size} px a side, and nothing "
                f"would be left of them; allowed: at most {splits.image_size}",
                hint=f"set augment.policy.{operation.name}.{key} to about a quarter of the image's side",
            )


def _check_selection(recipe: Recipe, splits: Splits, rates: Rates) -> None:
    """Nothing may choose on the test split, unless the recipe says that it does."""
    if splits.test is None:
        raise UsageError(f"data.source={recipe.data.source!r}: no test split to report on")
    evaluate = recipe.evaluate
    if evaluate.optimistic and splits.validation is not None:
        raise UsageError(
            "evaluate.optimistic=true: there is a validation split to select on, and the test split only reports",
            hint="remove evaluate.optimistic, or data.validation",
        )
    if evaluate.weights == "average" and isinstance(recipe.average, NoAverage):
        raise UsageError(
            "evaluate.weights='average': the recipe has no average; allowed: auto, model",
            hint="set average.name=ema with average.horizon=0.5ep, or remove evaluate.weights",
        )
    _check_metrics(recipe, splits, rates)
    if evaluate.model == "best" and splits.validation is None and not evaluate.optimistic:
        raise UsageError(
            "evaluate.model='best': there is no validation split to choose on, and the test split only reports",
            hint="set data.validation=0.1, or evaluate.model=last",
        )


def _check_metrics(recipe: Recipe, splits: Splits, rates: Rates) -> None:
    watched = [*recipe.stop.metrics.items(), *rates.watched]
    selects = splits.validation is not None or recipe.evaluate.optimistic
    for key, metric in watched:
        if metric.startswith("average_") and isinstance(recipe.average, NoAverage):
            raise UsageError(
                f"{key}={metric!r}: the recipe has no average", hint=f"set {metric.removeprefix('average_')}"
            )
        if "validation" in metric and not selects:
            raise UsageError(
                f"{key}={metric!r}: there is no validation split, and the test split only reports",
                hint="set data.validation=0.1, or watch train_loss",
            )
