"""How much better the run is on its training images than on new ones, and what choosing by a split adds.

Train is read clean and unmixed, in evaluation mode, on up to 10,000 images that the run's seed chooses.
"""

import math

from groundup.evaluation import correct, generalisation, selection_bias
from groundup.runs.reports.base import Facts, Section, Shown, Subject, Table, between, percent
from groundup.tracking import read

_TRAIN_IMAGES = 10_000


def measure(subject: Subject) -> Facts:
    """Accuracies on train, validation and test, their gaps, and the bias of the best epoch."""
    chosen = subject.some("train", _TRAIN_IMAGES, subject.recipe.seed, "generalisation")
    counts = {"train": _count(subject, None, chosen)}
    counts |= {split: _count(subject, split) for split in ("validation", "test") if getattr(subject.splits, split)}
    result = generalisation(train=counts["train"], test=counts["test"], validation=counts.get("validation"))
    return {
        **result.to_dict(),
        "train_images": len(subject.part("train")),
        "in_words": result.in_words().splitlines(),
        "selection": _selection(subject),
    }


def _count(subject: Subject, split: str | None, chosen: object = None) -> tuple[int, int]:
    """(right, images)."""
    if split is None:
        logits, labels = subject.logits_of(subject.part("train").subset(chosen))  # type: ignore[arg-type]
    else:
        logits, labels = subject.logits(split)
    return int(correct(logits, labels).sum()), len(labels)


def _selection(subject: Subject) -> str | None:
    """What metrics.jsonl says of the best against the last reading on the split that selects; None without readings."""
    split = "test" if subject.recipe.evaluate.optimistic else "validation"
    images = getattr(subject.splits, split)
    if images is None or not subject.folder.metrics_file.exists():
        return None
    summary = subject.folder.summary() or {}
    key = "average_validation_top1" if summary.get("weights") == "average" else "validation_top1"
    curve = [
        (float(line["epoch"]), float(line[key]))
        for line in read(subject.folder.metrics_file)
        if line.get(key) is not None and math.isfinite(line[key])
    ]
    return selection_bias(curve, images=len(images), split=split).in_words() if curve else None


def show(facts: Facts) -> Shown:
    """The gaps in words, and the accuracies behind them."""
    rows = [
        [split, percent(facts["accuracies"][split]), between(facts["intervals"][split]), f"{facts['images'][split]:,}"]
        for split in facts["accuracies"]
    ]
    lines = [*facts["in_words"], *([facts["selection"]] if facts["selection"] else [])]
    if facts["images"]["train"] < facts["train_images"]:
        lines.append(
            f"train: {facts['images']['train']:,} of {facts['train_images']:,} images, chosen by the run's seed"
        )
    return Shown(lines, [Table(["split", "top-1", "95% interval", "images"], rows)])


SECTION = Section("Generalisation", measure, show)
