"""The checks that run before the first step. What they may find has a code; `CODES` has them all."""

from groundup.preflight.averages import check_averages
from groundup.preflight.cost import (
    Cost,
    Disk,
    Memory,
    check_cost,
    evaluated_images,
    readable_bytes,
    readable_time,
    steps_by_size,
    train_flops,
)
from groundup.preflight.data import check_data
from groundup.preflight.essentials import check_essentials
from groundup.preflight.findings import LEVELS, Code, Finding, Level, find, in_order
from groundup.preflight.network import FeatureSize, check_network, feature_sizes
from groundup.preflight.norm_batches import refuse_lone_images
from groundup.preflight.samples import Samples, check_samples, sample_facts, see_samples
from groundup.preflight.schedule import check_schedule
from groundup.preflight.start import Start, check_start
from groundup.preflight.static import ALLOWED_BY_WORD, CODES, STATIC, static_findings, stops_a_run, without_ignored
from groundup.preflight.subject import Subject, subject_of, timetable

__all__ = [
    "ALLOWED_BY_WORD",
    "CODES",
    "LEVELS",
    "STATIC",
    "Code",
    "Cost",
    "Disk",
    "FeatureSize",
    "Finding",
    "Level",
    "Memory",
    "Samples",
    "Start",
    "Subject",
    "check_averages",
    "check_cost",
    "check_data",
    "check_essentials",
    "check_network",
    "check_samples",
    "check_schedule",
    "check_start",
    "evaluated_images",
    "feature_sizes",
    "find",
    "in_order",
    "readable_bytes",
    "readable_time",
    "refuse_lone_images",
    "sample_facts",
    "see_samples",
    "static_findings",
    "steps_by_size",
    "stops_a_run",
    "subject_of",
    "timetable",
    "train_flops",
    "without_ignored",
]
