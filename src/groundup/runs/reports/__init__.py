"""The sections of an evaluation: each measures one thing about a finished run, and says it in words, tables and pictures.

A section is two functions in a file of its own: `measure(subject)` gives facts that `json` can write and draws the pictures
that they name; `show(facts)` turns facts into what the terminal and the page print, so that a stored evaluation can be shown
again without the run.
"""

from groundup.runs.reports import (
    accuracy,
    calibration,
    chosen,
    comparison,
    corruptions,
    duplicates,
    generalisation,
    mistakes,
    norms,
)
from groundup.runs.reports.base import Facts, Section, Shown, Subject, Table

# In the order of the page.
SECTIONS: dict[str, Section] = {
    "accuracy": accuracy.SECTION,
    "comparison": comparison.SECTION,
    "calibration": calibration.SECTION,
    "corruptions": corruptions.SECTION,
    "corrupted": corruptions.GIVEN,
    "generalisation": generalisation.SECTION,
    "recalibrated": norms.SECTION,
    "duplicates": duplicates.SECTION,
    "mistakes": mistakes.SECTION,
    "chosen": chosen.SECTION,
}

__all__ = ["SECTIONS", "Facts", "Section", "Shown", "Subject", "Table"]
