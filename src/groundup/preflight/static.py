"""The checks that need no training image: they open every run, within a second, and every `groundup check`."""

from collections.abc import Callable, Iterable, Sequence

from groundup.basis.errors import UsageError, listed, nearest
from groundup.preflight.averages import AVERAGE_CODES, check_averages
from groundup.preflight.cost import COST_CODES
from groundup.preflight.data import DATA_CODES
from groundup.preflight.findings import Code, Finding, in_order
from groundup.preflight.network import NETWORK_CODES, check_network
from groundup.preflight.samples import SAMPLE_CODES
from groundup.preflight.schedule import SCHEDULE_CODES, check_schedule
from groundup.preflight.start import START_CODES
from groundup.preflight.subject import Subject
from groundup.preflight.times import TIME_CODES, check_times

CODES: dict[str, Code] = {
    **SCHEDULE_CODES,
    **NETWORK_CODES,
    **SAMPLE_CODES,
    **DATA_CODES,
    **AVERAGE_CODES,
    **TIME_CODES,
    **COST_CODES,
    **START_CODES,
}

STATIC: tuple[Callable[[Subject], Iterable[Finding]], ...] = (
    check_schedule,
    check_averages,
    check_times,
    check_network,
)

# What the recipe asks for by name, in so many words. `groundup check` calls it an error, because the result means less than it
# seems to; a run that asks for it is told so and goes on.
ALLOWED_BY_WORD = frozenset({"GU501"})


def static_findings(subject: Subject) -> list[Finding]:
    """What the checks that need no image have to say, the gravest first."""
    return in_order([finding for check in STATIC for finding in check(subject)])


def without_ignored(findings: Sequence[Finding], ignored: Sequence[str]) -> tuple[list[Finding], list[Finding]]:
    """The findings that are to be told, and those that `check.ignore` leaves out. UsageError for a code that does not exist."""
    for place, number in enumerate(ignored):
        if number not in CODES:
            near = nearest(number, CODES)
            raise UsageError(
                f"check.ignore.{place}={number!r}: no such code; allowed: {listed(CODES, 80)}",
                hint=f"did you mean {near!r}?" if near else None,
            )
    told = [finding for finding in findings if finding.code not in ignored]
    return told, [finding for finding in findings if finding.code in ignored]


def stops_a_run(finding: Finding) -> bool:
    """Whether a run must not begin with this: an error that nobody has asked for."""
    return finding.level == "error" and finding.code not in ALLOWED_BY_WORD
