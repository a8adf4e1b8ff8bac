"""What a check before a run has to say: codes, which are explained once, and findings, which name values.

A code is `GU` and three digits, and is never given to another thing:

    GU1xx schedule     GU2xx network      GU3xx samples: augmentation, mixing, normalisation     GU4xx data
    GU5xx averages, stopping, selection, times   GU6xx cost     GU7xx start

error: the result would mean nothing, or not what the recipe says. warning: very likely a mistake. note: unusual, and worth a look.
Every module of checks has a dictionary of its codes; their union is `groundup.preflight.CODES`.
"""

import re
import shlex
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Code:
    """What there is to say about every finding of a kind.

    number: "GU101"; level: the gravest that its findings have; title: a line without a full stop; why: a short paragraph on why it
    matters; mend: in words; seen: where the project's predecessors paid for it, such as "000, bugs 1 and 2"; may be empty.
    """

    number: str
    level: Level
    title: str
    why: str
    mend: str
    seen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One thing that was found. code: its number; saw: what, with values; mend: the overrides to paste, or words; "": none."""

    code: str
    level: Level
    saw: str
    mend: str = ""


def find(code: Code, saw: str, mend: str = "", level: Level | None = None) -> Finding:
    """A finding of `code`, at its level unless another is given."""
    return Finding(code.number, level or code.level, saw, mend)


def in_order(findings: list[Finding]) -> list[Finding]:
    """The gravest first, then by number."""
    return sorted(findings, key=lambda finding: (LEVELS.index(finding.level), finding.code))


def overrides_of(mend: str) -> list[str]:
    """The overrides that a mend consists of, as a shell would hand them over; [] if it is words."""
    return shlex.split(mend) if re.match(r"'?[a-z_]+[\w.]*=", mend) else []
