"""What is known of a run and what was measured now, or elsewhere, in one."""

from collections.abc import Mapping

from groundup.runs.evaluation_file import Sections, view_of, without_input
from groundup.runs.reports import SECTIONS
from groundup.runs.reports.base import Facts


def merged(known: Sections, new: Sections) -> Sections:
    """Section by section, view by view. Nothing is lost: another input is another view; `new` comes before `known`."""
    return {key: _joined(key, known.get(key, {}), new.get(key, {})) for key in SECTIONS if key in known or key in new}


def _joined(key: str, known: Mapping[str, Facts], new: Mapping[str, Facts]) -> dict[str, Facts]:
    section = SECTIONS[key]
    # Files of before did not say the input in the view.
    both = {view_of(without_input(view), section.measured_on(facts)): facts for view, facts in known.items()}
    for view, facts in new.items():
        both[view] = section.join(both[view], facts) if view in both else facts
    return both
