"""What is known of a run and what was measured now, or elsewhere, in one."""

from collections.abc import Mapping

from groundup.runs.card.text import evaluated
from groundup.runs.evaluation_file import NAME, Sections, view_of, without_input
from groundup.runs.evaluation_page import require_showable
from groundup.runs.reports import SECTIONS
from groundup.runs.reports.base import Facts


def usable(known: Sections) -> tuple[Sections, tuple[str, ...]]:
    """What of a file can be shown again, and a note on each view that cannot: the file may be damaged, or a stranger's."""
    kept: Sections = {}
    notes = []
    for key in (key for key in SECTIONS if key in known):
        for view, facts in known[key].items():
            try:
                several = SECTIONS[key].measured_on(facts)
                require_showable(key, view, facts)
                evaluated({key: {"test": facts}})
                if several:
                    max(0, facts.get("images") or 0)  # as `fullest` compares
            except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
                notes.append(f"{NAME}: what it said of {key} ({view!r}) could not be read, and is left out")
            else:
                kept.setdefault(key, {})[view] = facts
    return kept, tuple(notes)


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
