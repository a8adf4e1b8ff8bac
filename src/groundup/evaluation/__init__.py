"""Tensors in, numbers out: metrics, intervals, test-time augmentation, the report of one evaluation."""

from groundup.evaluation.collect import collect_logits, evaluation_mode
from groundup.evaluation.intervals import mean_interval, wilson
from groundup.evaluation.metrics import confusion, correct, nll, per_class, top_k
from groundup.evaluation.report import Evaluation
from groundup.evaluation.tta import TTA, Forward

__all__ = [
    "TTA",
    "Evaluation",
    "Forward",
    "collect_logits",
    "confusion",
    "correct",
    "evaluation_mode",
    "mean_interval",
    "nll",
    "per_class",
    "top_k",
    "wilson",
]
