"""The model card: README.md of a run, written from its summary, so that it cannot say anything else."""

from typing import Any

from groundup.basis.files import write_text
from groundup.recipe import Recipe
from groundup.runs.evaluation_file import Sections, read_sections
from groundup.runs.folder import RunFolder

_OWN = """
The network or the data named above was handed in from Python in place of the recipe's, and has to be again.
"""

_OPTIMISTIC = """**The accuracy is optimistic: the test split was used to choose, so new images will be classified less well.**

"""

_PICTURES = """![training curves](training_curves.png)

![what the network saw](samples.png)
"""


def write_card(folder: RunFolder, recipe: Recipe, summary: dict[str, Any]) -> None:
    """Write the card of a finished run."""
    write_text(folder.card, card(recipe, summary, read_sections(folder), pictures=_has_pictures(folder)))


def update_card(folder: RunFolder, recipe: Recipe, summary: dict[str, Any], known: Sections, now: Sections) -> bool:
    """Write the card again with what is known `now`. False, and nothing is written, if it is not the one written before."""
    if folder.card.exists() and folder.card.read_text(encoding="utf-8") != card(
        recipe, summary, known, pictures=_has_pictures(folder)
    ):
        return False
    write_text(folder.card, card(recipe, summary, now, pictures=_has_pictures(folder)))
    return True


def _has_pictures(folder: RunFolder) -> bool:
    return folder.samples_picture.exists() or folder.curves_picture.exists()


def card(recipe: Recipe, summary: dict[str, Any], sections: Sections, *, pictures: bool = True) -> str:
    """The text of the card. `sections`: what evaluation.json holds; `pictures`: whether the run drew any."""
    low, high = summary["top1_interval"]
    # A summary of an earlier version may lack what was added since.
    own = summary.get("own") or {}
    notes = "".join(f"- {note}\n" for note in summary.get("notes") or [])
    return f"""# {recipe.name}

{recipe.about}

Trained from scratch with [groundup](https://pypi.org/project/groundup/) {summary["groundup"]}.

| | |
|---|---|
| network | {own.get("model", recipe.model.name)}, {summary["parameters"]:,} parameters |
| data | {own.get("data", recipe.data.source)}, {summary["train_images"]:,} training images, {summary["classes"]} classes |
| top-1 | {summary["top1"]:.2%} (95% interval {low:.2%} to {high:.2%}) on {summary["images"]:,} {summary["reported_on"]} images |
| top-5 | {summary["top5"]:.2%} |
| selected on | {summary["selected_on"]} |
| seed | {summary["seed"]} |
| training | {summary["epochs"]:g} epochs, {summary["steps"]:,} steps, {summary["pflop"]:.4g} PFLOP, {summary["seconds"]:.0f} s |
| hardware | {summary["hardware"]}, {summary["device"]}, {summary["precision"]} |

{_OPTIMISTIC if summary["optimistic"] else ""}The interval speaks of the choice of test images alone, not of the choice of the seed.

{"What to know about the data:" + chr(10) + chr(10) + notes if notes else ""}
{_PICTURES if pictures else ""}
{_evaluated(sections)}## Load it

```python
import groundup

classifier = groundup.load("path/to/this/folder")
print(classifier.predict("photo.png"))
```

## Train it again

```
groundup train recipe.yaml
```
{_OWN if own else ""}"""


def _evaluated(sections: Sections) -> str:
    """What evaluation.json says of the test split beyond the summary; nothing where it says nothing."""
    lines = []
    of_test = {key: views["test"] for key, views in sections.items() if "test" in views}
    if (accuracy := of_test.get("accuracy")) and accuracy["superclass_accuracy"] is not None:
        lines.append(f"superclass accuracy {accuracy['superclass_accuracy']:.2%}")
    if calibration := of_test.get("calibration"):
        lines.append(_calibration("as trained", calibration["as_trained"]))
        if calibration["temperature"] is not None:
            name = f"with temperature {calibration['temperature']:.3g}, fitted on validation"
            lines.append(_calibration(name, calibration["with_temperature"]))
    if corruptions := of_test.get("corruptions"):
        around = corruptions["mean_interval"]
        interval = f" (95% interval {around[0]:.2%} to {around[1]:.2%})" if around else ""
        lines.append(
            f"generated corruptions, {corruptions['images']:,} images: mean accuracy {corruptions['mean']:.2%}{interval}, "
            f"clean {corruptions['clean']:.2%} on the same images; not a published corrupted set, frost is procedural"
        )
    if generalisation := of_test.get("generalisation"):
        lines += generalisation["in_words"]
    if (duplicates := of_test.get("duplicates")) and duplicates["found"] is not None:
        without = duplicates["accuracies"]["without near-duplicates"]["top1"]
        share = "" if without is None else f"; top-1 without them {without:.2%}"
        lines.append(
            f"{duplicates['found']:,} of {duplicates['images']:,} test images have a near-duplicate in train{share}"
        )
    listed = "".join(f"- {line}\n" for line in lines)
    return f"## Calibration and robustness\n\nOn the test split, by `groundup evaluate`:\n\n{listed}\n" if lines else ""


def _calibration(name: str, values: dict[str, Any]) -> str:
    return (
        f"calibration {name}: NLL {values['nll']:.4f}, Brier {values['brier']:.4f}, "
        f"ECE {values['ece_equal_mass']:.2%} (equal mass)"
    )
