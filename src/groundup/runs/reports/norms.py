"""What new batch-norm statistics would do: measured on clean training images by a copy of the network.

Nothing is written over the run's weights. A gain says that the statistics of training (of mixed or augmented images, or of
weights that were still moving) do not fit the clean images of an evaluation.
"""

import copy

from groundup.evaluation import compare_runs, correct, wilson
from groundup.runs.prepare import clean_images
from groundup.runs.reports.base import Facts, Section, Shown, Subject, Table, between, percent
from groundup.training.average import refresh_norms


def measure(subject: Subject) -> Facts:
    """Accuracy with the run's own statistics and with new ones, compared on the same images."""
    network = copy.deepcopy(subject.model)
    images = clean_images(subject.recipe, subject.loader(subject.part("train")))
    if not refresh_norms(network, images, subject.engine.autocast, subject.stop.check):
        return {"batch_norms": False}
    logits, labels = subject.logits()
    before, after = correct(logits, labels), correct(*subject.logits_of(subject.part(), network))
    compared = compare_runs(after, before, names=("with new statistics it", "with the run's own it"))
    counts = {"as stored": int(before.sum()), "measured anew": int(after.sum())}
    return {
        "batch_norms": True,
        "accuracies": {name: count / len(labels) for name, count in counts.items()},
        "intervals": {name: list(wilson(count, len(labels))) for name, count in counts.items()},
        "difference": compared.difference,
        "difference_interval": list(compared.interval),
        "in_words": compared.in_words(),
    }


def show(facts: Facts) -> Shown:
    """Before and after, and whether the difference is shown."""
    if not facts["batch_norms"]:
        return Shown(["the network has no batch norm that keeps statistics: there is nothing to measure anew"])
    rows = [[name, percent(share), between(facts["intervals"][name])] for name, share in facts["accuracies"].items()]
    lines = [facts["in_words"], "the run's weights stay as they are"]
    return Shown(lines, [Table(["batch-norm statistics", "top-1", "95% interval"], rows)])


SECTION = Section("Batch-norm statistics measured anew", measure, show)
