"""The body of a model card, Markdown, from what the files of a run say, so that it cannot say anything else."""

from dataclasses import dataclass
from typing import Any

from groundup.basis.errors import listed
from groundup.recipe import Recipe
from groundup.runs.card.cost import cost_lines
from groundup.runs.evaluation_file import Sections, fullest, without_input
from groundup.runs.reports.base import cost_per_image

REPOSITORY = "hf:OWNER/NAME"
"""Stands in the card of a run for the repository that it may be published to."""

AGAIN = """## Train it again

```
groundup train recipe.yaml
```
"""

OWN = """
The network or the data named above was handed in from Python in place of the recipe's, and has to be again.
"""

_OPTIMISTIC = """**The accuracy is optimistic: the test split was used to choose, so new images will be classified less well.**

"""

_PICTURES = {"training_curves.png": "training curves", "samples.png": "what the network saw"}

_ANYWHERE = f'"path/to/this/folder")  # published on the Hub: groundup.load("{REPOSITORY}"'

_RESIZED = {
    "squash": "brought to it with its aspect ratio changed",
    "crop": "brought to it by its shorter side, and cut to the middle square",
    "pad": "brought to it by its longer side, with black borders",
}


@dataclass(frozen=True)
class Facts:
    """What a card is made of. described: classifier.json; sections: evaluation.json; pictures: names of those that
    lie beside it; repository: where it is published, None for the card of a folder."""

    recipe: Recipe
    summary: dict[str, Any]
    described: dict[str, Any]
    sections: Sections
    pictures: tuple[str, ...] = ()
    repository: str | None = None


def body(facts: Facts) -> str:
    """The text below the metadata."""
    recipe, summary = facts.recipe, facts.summary
    # A summary of an earlier version may lack what was added since.
    own = summary.get("own") or {}
    parts = [
        f"# {recipe.name}\n",
        f"{recipe.about}\n" if recipe.about else "",
        f"Trained from scratch with groundup {summary['groundup']}.\n",
        _table(facts, own),
        _OPTIMISTIC if summary["optimistic"] else "",
        "The interval speaks of the choice of test images alone, not of the choice of the seed.\n",
        section("About the data", summary.get("notes") or []),
        shown(facts.pictures),
        evaluated(facts.sections),
        section("Limits", _limits(facts)),
        load_lines(facts.repository, summary["groundup"]) + "\n" + AGAIN + (OWN if own else ""),
        section("Cost", cost_lines(summary)),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts if part).rstrip("\n")


def _table(facts: Facts, own: dict[str, str]) -> str:
    recipe, summary = facts.recipe, facts.summary
    low, high = summary["top1_interval"]
    size = facts.described["image_size"]
    rows = {
        "network": f"{own.get('model', recipe.model.name)}, {summary['parameters']:,} parameters, "
        f"for RGB images of {size} x {size} px",
        "data": f"{own.get('data', recipe.data.source)}, {summary['train_images']:,} training images, "
        f"{summary['classes']} classes",
        "recipe": "[recipe.yaml](recipe.yaml), complete",
        "top-1": f"{summary['top1']:.2%} (95% interval {low:.2%} to {high:.2%}) on {summary['images']:,} "
        f"{summary['reported_on']} images",
        "top-5": f"{summary['top5']:.2%}{_around(summary.get('top5_interval'))}",
        "selected on": summary["selected_on"],
        "seed": summary["seed"],
        "training": f"{summary['epochs']:g} epochs, {summary['steps']:,} steps, {summary['pflop']:.4g} PFLOP, "
        f"{summary['seconds']:.0f} s",
        "hardware": f"{summary['hardware']}, {summary['device']}, {summary['precision']}",
    }
    return table(rows)


def table(rows: dict[str, Any]) -> str:
    """Two columns without a head."""
    cells = "".join(f"| {key} | {str(value).replace('|', chr(92) + '|')} |\n" for key, value in rows.items())
    return f"| | |\n|---|---|\n{cells}"


def shown(pictures: tuple[str, ...]) -> str:
    """The pictures of a run that lie beside the card, of these names."""
    return "".join(f"![{title}]({name})\n\n" for name, title in _PICTURES.items() if name in pictures)


def load_lines(repository: str | None, version: str) -> str:
    """How to load it, in lines that can be pasted. `repository`: where it is, None for a folder; `version`: of groundup."""
    place = _ANYWHERE if repository is None else f'"{repository}"'
    return f"""## Load it

Where groundup {version} or a later version is installed:

```python
import groundup

classifier = groundup.load({place})
print(classifier.predict("photo.png"))
```

The names of the classes and the preparation of pictures come with it. Loading runs no code from these files.
"""


def section(title: str, lines: list[str]) -> str:
    """A heading with a list below it, nothing without lines."""
    return f"## {title}\n\n" + "".join(f"- {line}\n" for line in lines) if lines else ""


def what_it_knows(described: dict[str, Any]) -> list[str]:
    """Its classes and the size of its pictures, a line each. `described`: classifier.json."""
    size = described["image_size"]
    return [
        f"It knows {len(described['classes'])} classes: {listed(described['classes'], 12)}. "
        "Any other picture is given one of these names too, often with a high probability.",
        f"It sees {size} x {size} px: a picture of another size is {_RESIZED[described['resize']]}.",
    ]


def _limits(facts: Facts) -> list[str]:
    """What the result does not say, in plain words."""
    described, summary = facts.described, facts.summary
    known = {key for key in facts.sections if fullest(facts.sections, key)}
    if (duplicates := fullest(facts.sections, "duplicates")) and duplicates["found"] is None:
        known.discard("duplicates")  # looked for by features that the network does not have
    lines = [
        *what_it_knows(described),
        f"The accuracy is that on the {summary['reported_on']} split of its own data. Pictures from another source, camera or "
        "time are usually classified less well.",
        "One run with one seed: another seed gives another accuracy.",
    ]
    if summary["optimistic"]:
        lines.append("The test split was used to choose: the accuracy is too high.")
    if summary["bad_images"]:
        lines.append(f"{summary['bad_images']:,} damaged images were left out.")
    unknown = {
        "calibration": "whether its probabilities are as right as they are sure (`groundup evaluate --calibration`)",
        "corruptions": "how it does on blurred, noisy or otherwise spoilt pictures (`--corruptions`)",
        "duplicates": "whether test images have near-copies in the training images (`--duplicates`)",
    }
    if missing := [words for key, words in unknown.items() if key not in known]:
        lines.append(f"Not measured: {'; '.join(missing)}.")
    lines.append(
        "Not measured: differences between groups of people or places, or attempts to deceive it. Decisions about "
        "people, health or safety need a test of their own."
    )
    return lines


def evaluated(sections: Sections) -> str:
    """What evaluation.json says of the test split beyond the summary; nothing where it says nothing."""
    lines = []
    of_test = {key: facts for key in sections if (facts := fullest(sections, key))}
    if accuracy := of_test.get("accuracy"):
        around = _around(accuracy.get("macro_interval"))
        lines.append(f"mean accuracy of the classes (macro) {accuracy['macro_accuracy']:.2%}{around}")
        if accuracy["superclass_accuracy"] is not None:
            around = _around(accuracy.get("superclass_interval"))
            lines.append(f"superclass accuracy {accuracy['superclass_accuracy']:.2%}{around}")
    lines += _at_more_cost(sections)
    if calibration := of_test.get("calibration"):
        lines.append(_calibration("as trained", calibration["as_trained"]))
        if calibration["temperature"] is not None:
            twin = calibration.get("temperature_from")
            on_what = (
                f"the {calibration['fitted_on']:,} validation images of a twin run, {twin}" if twin else "validation"
            )
            name = f"with temperature {calibration['temperature']:.3g}, fitted on {on_what}"
            lines.append(_calibration(name, calibration["with_temperature"]))
    if corruptions := of_test.get("corruptions"):
        interval = _around(corruptions["mean_interval"])
        lines.append(
            f"generated corruptions, {corruptions['images']:,} images: mean accuracy {corruptions['mean']:.2%}{interval}, "
            f"clean {corruptions['clean']:.2%} on the same images; not a published corrupted set, frost is procedural"
        )
    for view, corrupted in sections.get("corrupted", {}).items():
        if without_input(view) == "test":
            lines.append(
                f"{corrupted['source']}, corrupted elsewhere, {corrupted['images']:,} images: top-1 {corrupted['top1']:.2%} "
                f"(95% interval {corrupted['top1_interval'][0]:.2%} to {corrupted['top1_interval'][1]:.2%})"
            )
    if generalisation := of_test.get("generalisation"):
        lines += generalisation["in_words"]
    if (duplicates := of_test.get("duplicates")) and duplicates["found"] is not None:
        without = duplicates["accuracies"]["without near-duplicates"]["top1"]
        share = "" if without is None else f"; top-1 without them {without:.2%}"
        lines.append(
            f"{duplicates['found']:,} of {duplicates['images']:,} test images have a near-duplicate in train, by pixels alone: "
            f"some may only be alike{share}"
        )
    listing = "".join(f"- {line}\n" for line in lines)
    return f"## Calibration and robustness\n\nOn the test split, by `groundup evaluate`:\n\n{listing}" if lines else ""


def _at_more_cost(sections: Sections) -> list[str]:
    """Accuracies on the test split that take more than one pass of the network, with what they take."""
    lines = []
    for facts in sections.get("accuracy", {}).values():
        if facts["split"] == "test" and facts["tta"] != "none" and "cost" in facts:
            around, cost = _around(facts["top1_interval"]), cost_per_image(facts["cost"])
            lines.append(f"with {facts['tta']} test-time augmentation: top-1 {facts['top1']:.2%}{around}; {cost}")
    for view, facts in sections.get("comparison", {}).items():
        if without_input(view).split("-")[0] == "test" and (together := facts["ensemble"]):
            others = listed([run["name"] for run in facts["runs"]])
            tta = "" if facts["tta"] == "none" else f", each with {facts['tta']} test-time augmentation"
            around, cost = _around(together["top1_interval"]), cost_per_image(together)
            lines.append(f"{together['name']} ({others}{tta}): top-1 {together['top1']:.2%}{around}; {cost}")
    return lines


def _around(interval: Any) -> str:
    """The interval of a share, in brackets; nothing without one, as in files of before."""
    return f" (95% interval {interval[0]:.2%} to {interval[1]:.2%})" if interval else ""


def _calibration(name: str, values: dict[str, Any]) -> str:
    return (
        f"calibration {name}: NLL {values['nll']:.4f}, Brier {values['brier']:.4f}, "
        f"ECE {values['ece_equal_mass']:.2%} (equal mass)"
    )
