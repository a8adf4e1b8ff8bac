"""How often the run is right on a split: top-1, top-5, macro, superclasses, per class, with intervals."""

from typing import Any

import numpy as np

from groundup.basis.pictures import confusion_picture
from groundup.evaluation import TTA_COST, Evaluation
from groundup.runs.reports.base import Facts, Section, Shown, Subject, Table, between, cost_per_image, percent

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
    cost = {"forward_passes": TTA_COST[subject.tta], "flop": subject.flop}
    return {**result.to_dict(), "cost": cost, "pictures": [picture.name]}


def show(facts: Facts) -> Shown:
    """The numbers, the hardest classes, and every class folded away."""
    rows = [
        ["top-1", percent(facts["top1"]), between(facts["top1_interval"])],
        ["top-5", percent(facts["top5"]), _around(facts, "top5_interval")],
        ["mean of the classes (macro)", percent(facts["macro_accuracy"]), _around(facts, "macro_interval")],
    ]
    cost = f"; {cost_per_image(facts['cost'])}" if "cost" in facts else ""  # files of before do not say
    lines = [f"{_view(facts)}, {facts['images']:,} images; loss (nll) {facts['nll']:.4f}{cost}"]
    tables = [Table(["", "accuracy", "95% interval"], rows)]
    if facts["superclass_accuracy"] is not None:
        interval = between(facts["superclass_interval"])
        rows.append(["superclass", percent(facts["superclass_accuracy"]), interval])
    ordered = sorted(facts["per_class"], key=lambda row: (row["recall"] is None, row["recall"]))
    tables.append(_classes("hardest classes", ordered[:_HARDEST]))
    if facts["per_superclass"]:
        tables.append(_superclasses(facts["per_superclass"]))
        coarse = _confused(facts["superclass_confusion"], facts["per_superclass"], "superclass")
        if coarse:
            tables.append(Table(["is", "taken for", "images"], coarse, "Most frequent confusions of superclasses"))
    if pairs := _confused(facts["confusion"], facts["per_class"], "class"):
        tables.append(Table(["is", "taken for", "images"], pairs, folded="Most frequent confusions"))
    tables.append(_classes("class", facts["per_class"], f"Every class ({len(facts['per_class'])})"))
    return Shown(lines, tables, wide=facts["pictures"])


def _around(row: dict[str, Any], key: str, digits: int = 2) -> str:
    """An interval; nothing where there is none, as in files of before."""
    return between(row[key], digits) if row.get(key) else ""


def _view(facts: Facts) -> str:
    view = "" if facts["tta"] == "none" else f" with {facts['tta']} test-time augmentation"
    return f"{facts['split']} split{view}"


def _classes(title: str, rows: list[dict[str, Any]], folded: str = "") -> Table:
    cells = [
        [
            str(row["class"]),
            percent(row["recall"], 1),
            _around(row, "recall_interval", 1),
            percent(row["precision"], 1),
            f"{row['images']:,}",
        ]
        for row in rows
    ]
    return Table([title, "recall", "95% interval", "precision", "images"], cells, folded)


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


def _confused(matrix: list[list[int]], rows: list[dict[str, Any]], named: str) -> list[list[str]]:
    """The pairs that are confused most often, the most frequent first. named: the key of the names in `rows`."""
    counts = np.array(matrix)
    np.fill_diagonal(counts, 0)
    names = [str(row[named]) for row in rows]
    order = np.argsort(-counts, axis=None, kind="stable")[:_MOST_PAIRS]
    places = zip(*np.unravel_index(order, counts.shape), strict=True)
    return [[names[row], names[column], f"{counts[row, column]:,}"] for row, column in places if counts[row, column]]


SECTION = Section("Accuracy", measure, show)
