"""The model card: README.md of a run, written from its summary, so that it cannot say anything else."""

from typing import Any

from groundup.basis.files import write_text
from groundup.recipe import Recipe
from groundup.runs.folder import RunFolder

_OWN = """
The network or the data named above was handed in from Python in place of the recipe's, and has to be again.
"""

_OPTIMISTIC = """**The accuracy is optimistic: the test split was used to choose, so new images will be classified less well.**

"""


def write_card(folder: RunFolder, recipe: Recipe, summary: dict[str, Any]) -> None:
    """Write the card of a finished run."""
    low, high = summary["top1_interval"]
    data = summary["own"].get("data", recipe.data.source)
    notes = "".join(f"- {note}\n" for note in summary["notes"])
    write_text(
        folder.card,
        f"""# {recipe.name}

{recipe.about}

Trained from scratch with [groundup](https://pypi.org/project/groundup/) {summary["groundup"]}.

| | |
|---|---|
| network | {summary["own"].get("model", recipe.model.name)}, {summary["parameters"]:,} parameters |
| data | {data}, {summary["train_images"]:,} training images, {summary["classes"]} classes |
| top-1 | {summary["top1"]:.2%} (95% interval {low:.2%} to {high:.2%}) on {summary["images"]:,} {summary["reported_on"]} images |
| top-5 | {summary["top5"]:.2%} |
| selected on | {summary["selected_on"]} |
| seed | {summary["seed"]} |
| training | {summary["epochs"]:g} epochs, {summary["steps"]:,} steps, {summary["pflop"]:.4g} PFLOP, {summary["seconds"]:.0f} s |
| hardware | {summary["hardware"]}, {summary["device"]}, {summary["precision"]} |

{_OPTIMISTIC if summary["optimistic"] else ""}The interval speaks of the choice of test images alone, not of the choice of the seed.

{"What to know about the data:" + chr(10) + chr(10) + notes if notes else ""}
![training curves](training_curves.png)

![what the network saw](samples.png)

## Load it

```python
import groundup

classifier = groundup.load("path/to/this/folder")
print(classifier.predict("photo.png"))
```

## Train it again

```
groundup train recipe.yaml
```
{_OWN if summary["own"] else ""}""",
    )
