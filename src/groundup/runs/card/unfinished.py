"""The card of a run that is still being trained, for its mirror on the Hub: what the weights there are, and that they will change.

It has no result: the test split is read once, at the end. The finished run's card takes its place.
"""

from dataclasses import dataclass
from typing import Any

from groundup.recipe import Recipe
from groundup.runs.card.metadata import without_results
from groundup.runs.card.text import AGAIN, OWN, load_lines, section, shown, table, what_it_knows
from groundup.runs.card.writing import whole
from groundup.version import __version__

_EARLY = "It is not trained to the end: expect worse than of the finished run."


@dataclass(frozen=True)
class SoFar:
    """What is known of a run before its end. described: classifier.json; own: what was handed in from Python; step, epoch: of the
    weights; steps: of the whole run; metrics: the line of metrics.jsonl at that step, empty without one; pictures: names."""

    recipe: Recipe
    described: dict[str, Any]
    own: dict[str, str]
    step: int
    epoch: float
    steps: int
    metrics: dict[str, Any]
    pictures: tuple[str, ...]
    repository: str


def unfinished_card(known: SoFar) -> str:
    """The whole card, metadata included."""
    return whole(without_results(known.recipe, known.own), _body(known))


def _body(known: SoFar) -> str:
    recipe, own = known.recipe, known.own
    parts = [
        f"# {recipe.name}\n",
        f"{recipe.about}\n" if recipe.about else "",
        f"**This run is not finished.** The weights are those of epoch {known.epoch:.4g} of {recipe.train.epochs:g} (step "
        f"{known.step:,} of {known.steps:,}). They change with every copy, and nothing was measured on the test split yet.\n",
        f"Being trained from scratch with groundup {__version__}.\n",
        table(_rows(known)),
        shown(known.pictures),
        section("Limits", [*what_it_knows(known.described), _EARLY]),
        load_lines(known.repository, __version__) + "\n" + AGAIN + (OWN if own else ""),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts if part).rstrip("\n")


def _rows(known: SoFar) -> dict[str, Any]:
    recipe, size = known.recipe, known.described["image_size"]
    rows = {
        "network": f"{known.own.get('model', recipe.model.name)}, for RGB images of {size} x {size} px",
        "data": f"{known.own.get('data', recipe.data.source)}, {len(known.described['classes'])} classes",
        "recipe": "[recipe.yaml](recipe.yaml), complete",
        "seed": recipe.seed,
    }
    top1 = known.metrics.get("validation_top1")
    if top1 is not None:
        split = "the test split, which this run chooses by (optimistic)" if recipe.evaluate.optimistic else "validation"
        rows["top-1 so far"] = f"{top1:.2%} on {split}, at this step"
    return rows
