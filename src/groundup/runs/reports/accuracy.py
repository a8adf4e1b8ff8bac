"""How often the run is right on a split: top-1, top-5, macro, superclasses, per class, with intervals."""

from typing import Any

import numpy as np

from groundup.basis.pictures import confusion_picture
from groundup.evaluation import Evaluation
from groundup.runs.reports.base import Facts, Section, Shown, Subject, Table, between, percent

_MOST_PAIRS = 10
_HARDEST = 5


def evaluation_of(subject: Subject) -> Evaluation:
    """Everything about the split, from logits that are computed once."""
    logits, labels = subject.logits()
    kinds = subject.superclasses
    return Evaluation.of(
        logits,
        labels,
        subject.classes,
        split=subject.split,
        tta=subject.tta,
        coarse_of_fine=kinds.of_class if kinds else None,
        superclass_names=kinds.names if kinds else None,
    )


def measure(subject: Subject) -> Facts:
    """The fields of `Evaluation`; draws the confusion matrix."""
    result = evaluation_of(subject)
    picture = subject.picture("confusion")
    confusion_picture(np.asarray(result.confusion), subject.classes, picture, str(result))
    return {**result.to_dict(), "pictures": [picture.name]}


def show(facts: Facts) -> Shown:
    """The numbers, the hardest classes, and every class folded away."""
    rows = [
        ["top-1", percent(facts["top1"]), between(facts["top1_interval"])],
        ["top-5", percent(facts["top5"]), ""],
        ["mean of the classes (macro)", percent(facts["macro_accuracy"]), ""],
    ]
    lines = [f"{_view(facts)}, {facts['images']:,} images; loss (nll) {facts['nll']:.4f}"]
    tables = [Table(["", "accuracy", "95% interval"], rows)]
    if facts["superclass_accuracy"] is not None:
        interval = between(facts["superclass_interval"])
        rows.append(["superclass", percent(facts["superclass_accuracy"]), interval])
    ordered = sorted(facts["per_class"], key=lambda row: (row["recall"] is None, row["recall"]))
    tables.append(_classes("hardest classes", ordered[:_HARDEST]))
    if facts["per_superclass"]:
        tables.append(_superclasses(facts["per_superclass"]))
    if pairs := _confused(facts):
        tables.append(Table(["is", "taken for", "images"], pairs, folded="Most frequent confusions"))
    tables.append(_classes("class", facts["per_class"], f"Every class ({len(facts['per_class'])})"))
    return Shown(lines, tables, wide=facts["pictures"])


def _view(facts: Facts) -> str:
    view = "" if facts["tta"] == "none" else f" with {facts['tta']} test-time augmentation"
    return f"{facts['split']} split{view}"


def _classes(title: str, rows: list[dict[str, Any]], folded: str = "") -> Table:
    cells = [
        [str(row["class"]), percent(row["recall"], 1), percent(row["precision"], 1), f"{row['images']:,}"]
        for row in rows
    ]
    return Table([title, "recall", "precision", "images"], cells, folded)


def _superclasses(rows: list[dict[str, Any]]) -> Table:
    cells = [
        [
            str(row["superclass"]),
            *(percent(row[key], 1) for key in ("right", "within", "outside")),
            f"{row['images']:,}",
        ]
        for row in rows
    ]
    head = ["superclass", "right", "wrong within it", "outside it", "images"]
    return Table(head, cells, folded=f"Every superclass ({len(cells)})")


def _confused(facts: Facts) -> list[list[str]]:
    """The pairs of classes that are confused most often, the most frequent first."""
    counts = np.array(facts["confusion"])
    np.fill_diagonal(counts, 0)
    names = [str(row["class"]) for row in facts["per_class"]]
    order = np.argsort(-counts, axis=None, kind="stable")[:_MOST_PAIRS]
    places = zip(*np.unravel_index(order, counts.shape), strict=True)
    return [[names[row], names[column], f"{counts[row, column]:,}"] for row, column in places if counts[row, column]]


SECTION = Section("Accuracy", measure, show)
