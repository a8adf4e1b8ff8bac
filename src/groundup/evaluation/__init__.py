"""Tensors in, numbers out: metrics, intervals, test-time augmentation, the report of one evaluation."""

from groundup.evaluation.calibration import (
    Calibration,
    calibration,
    calibration_intervals,
    chance_ece,
    fit_temperature,
    with_temperature,
)
from groundup.evaluation.collect import collect_logits, evaluation_mode
from groundup.evaluation.comparison import Comparison, compare_groups, compare_runs
from groundup.evaluation.ensemble import Diversity, diversity, ensemble, ensemble_cost
from groundup.evaluation.generalisation import Generalisation, SelectionBias, generalisation, selection_bias
from groundup.evaluation.intervals import bootstrap, mean_interval, newcombe, wilson
from groundup.evaluation.metrics import confusion, correct, macro_accuracy, nll, per_class, top_k
from groundup.evaluation.neighbours import NEAR_DUPLICATE, likeness, nearest
from groundup.evaluation.report import Evaluation, headline
from groundup.evaluation.superclasses import per_superclass, superclass_accuracy, superclass_confusion
from groundup.evaluation.tta import TTA, TTA_COST, Forward

__all__ = [
    "NEAR_DUPLICATE",
    "TTA",
    "TTA_COST",
    "Calibration",
    "Comparison",
    "Diversity",
    "Evaluation",
    "Forward",
    "Generalisation",
    "SelectionBias",
    "bootstrap",
    "calibration",
    "calibration_intervals",
    "chance_ece",
    "collect_logits",
    "compare_groups",
    "compare_runs",
    "confusion",
    "correct",
    "diversity",
    "ensemble",
    "ensemble_cost",
    "evaluation_mode",
    "fit_temperature",
    "generalisation",
    "headline",
    "likeness",
    "macro_accuracy",
    "mean_interval",
    "nearest",
    "newcombe",
    "nll",
    "per_class",
    "per_superclass",
    "selection_bias",
    "superclass_accuracy",
    "superclass_confusion",
    "top_k",
    "wilson",
    "with_temperature",
]
