"""Cards from before groundup marked its own part of them: whether one is as it was written then, so that it may be renewed.

It is made again from the same files. Blank lines and pictures are not compared; of the list of evaluations each line has to be one
that is written today too.
"""

from typing import Any

from groundup.recipe import Recipe
from groundup.runs.card.text import AGAIN, OWN, evaluated
from groundup.runs.evaluation_file import Sections

_LOAD = """## Load it

```python
import groundup

classifier = groundup.load("path/to/this/folder")
print(classifier.predict("photo.png"))
```
"""


def untouched(card: str, recipe: Recipe, summary: dict[str, Any], sections: Sections) -> bool:
    """Whether `card` is what an earlier groundup wrote about this run, word for word."""
    head, found, rest = card.partition("## Calibration and robustness\n")
    listing, load, rest = rest.partition("## Load it\n")
    measured = _lines(listing) if found else []
    known = {"On the test split, by `groundup evaluate`:", *_lines(evaluated(sections))}
    try:
        as_written = _as_written(recipe, summary)
    except (KeyError, TypeError, ValueError):
        return False
    return set(measured) <= known and _lines(head + load + rest) == _lines(as_written)


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("![")]


def _as_written(recipe: Recipe, summary: dict[str, Any]) -> str:
    low, high = summary["top1_interval"]
    own = summary.get("own") or {}
    notes = [f"- {note}" for note in summary.get("notes") or []]
    chosen = (
        "The accuracy is optimistic: the test split was used to choose, so new images will be classified less well."
    )
    lines = [
        f"# {recipe.name}",
        recipe.about,
        f"Trained from scratch with [groundup](https://pypi.org/project/groundup/) {summary['groundup']}.",
        "| | |",
        "|---|---|",
        f"| network | {own.get('model', recipe.model.name)}, {summary['parameters']:,} parameters |",
        f"| data | {own.get('data', recipe.data.source)}, {summary['train_images']:,} training images, "
        f"{summary['classes']} classes |",
        f"| top-1 | {summary['top1']:.2%} (95% interval {low:.2%} to {high:.2%}) on {summary['images']:,} "
        f"{summary['reported_on']} images |",
        f"| top-5 | {summary['top5']:.2%} |",
        f"| selected on | {summary['selected_on']} |",
        f"| seed | {summary['seed']} |",
        f"| training | {summary['epochs']:g} epochs, {summary['steps']:,} steps, {summary['pflop']:.4g} PFLOP, "
        f"{summary['seconds']:.0f} s |",
        f"| hardware | {summary['hardware']}, {summary['device']}, {summary['precision']} |",
        *([f"**{chosen}**"] if summary["optimistic"] else []),
        "The interval speaks of the choice of test images alone, not of the choice of the seed.",
        *(["What to know about the data:", *notes] if notes else []),
        _LOAD + AGAIN + (OWN if own else ""),
    ]
    return "\n".join(lines)
