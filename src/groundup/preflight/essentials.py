"""What would make a run fail or mean nothing, found before the first step: cheap, without touching the network."""

from groundup.basis.duration import Clock
from groundup.basis.errors import UsageError
from groundup.data import Splits
from groundup.recipe import Recipe
from groundup.training import LiveSchedule


def check_essentials(recipe: Recipe, splits: Splits, clock: Clock, live: LiveSchedule) -> None:
    """UsageError for the first thing in the recipe that this data or this length of run does not allow."""
    recipe.schedule.check(clock)
    _check_sizes(recipe, splits, live)
    _check_padding(splits, live)
    _check_selection(recipe, splits)


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
    policies = [live.base.policy, *(live.at(first).policy for first, _ in live.changes)]
    for operation in (operation for policy in policies for operation in policy):
        pad = getattr(operation, "pad", 0)
        if pad >= splits.image_size:
            raise UsageError(
                f"augment.policy: pad_crop.pad={pad}: the images have {splits.image_size} px a side; allowed: less than that",
                hint="set augment.policy.pad_crop.pad to about an eighth of the image's side",
            )


def _check_selection(recipe: Recipe, splits: Splits) -> None:
    if recipe.evaluate.model == "best" and splits.validation is None:
        raise UsageError(
            "evaluate.model='best': there is no validation split to choose on, and the test split only reports",
            hint="set data.validation=0.1, or evaluate.model=last",
        )
    if splits.test is None:
        raise UsageError(f"data.source={recipe.data.source!r}: no test split to report on")
