"""Lengths of training with their unit, and the clock that turns them into steps.

A duration is written `5ep` (epochs), `0.3dur` (share of the run) or `1000step` (optimizer updates). A bare number is refused:
a schedule stepped in the wrong unit was the most expensive mistake of the systems this project starts from.
Only the recipe speaks in durations; the loop knows nothing but steps.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

Unit = Literal["ep", "dur", "step"]
_PATTERN = re.compile(r"(?P<value>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(?P<unit>ep|dur|step)")
_ALLOWED = "a number with its unit: 5ep (epochs), 0.3dur (share of the run) or 1000step (optimizer updates)"


@dataclass(frozen=True)
class Duration:
    """A non-negative length of training: `value` in `unit`. `dur` values lie in [0, 1], `step` values are whole."""

    value: float
    unit: Unit

    @classmethod
    def parse(cls, text: "str | Duration") -> "Duration":
        """Read a duration; ValueError (which pydantic turns into a located error) says what is allowed."""
        if isinstance(text, Duration):
            return text
        if isinstance(text, int | float) and not isinstance(text, bool):
            raise ValueError(f"a bare number is not a duration; write {_ALLOWED}{_meant(text)}")
        match = _PATTERN.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"not a duration; write {_ALLOWED}")
        value, unit = float(match["value"]), match["unit"]
        if not math.isfinite(value):
            raise ValueError(f"a duration is finite, got {text}")
        if unit == "dur" and value > 1:
            raise ValueError(f"a share of the run lies between 0dur and 1dur, got {text}")
        if unit == "step" and value != int(value):
            raise ValueError(f"steps are whole numbers, got {text}")
        return cls(value, unit)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return (
            repr(float(self.value)).removesuffix(".0") + self.unit
        )  # every digit: a written recipe is the same recipe

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
        )


def _meant(number: float) -> str:
    """What a bare number may have stood for. Up to 1 a share of the run is as likely as epochs, below 1 likelier."""
    if not 0 <= number < math.inf:
        return ""
    epochs, share = f"'{number}ep'", f"'{number}dur' (a share of the run)"
    readings = [share, epochs] if number < 1 else [epochs, share] if number == 1 else [epochs]
    return f"; did you mean {' or '.join(readings)}?"


@dataclass(frozen=True)
class Clock:
    """Turns durations into steps for one run: `steps_per_epoch` and `total_steps` are both at least 1."""

    steps_per_epoch: int
    total_steps: int

    @classmethod
    def of(cls, length: Duration, steps_per_epoch: int) -> "Clock":
        """The clock of a run that lasts `length` (epochs or steps; a share of itself is refused)."""
        if length.unit == "dur":
            raise ValueError(f"the length of the run cannot be a share of itself: {length}")
        factor = steps_per_epoch if length.unit == "ep" else 1
        return cls(steps_per_epoch, max(1, round(length.value * factor)))

    def steps(self, duration: Duration) -> int:
        """`duration` in steps, rounded to the nearest whole step."""
        return round(self.exact_steps(duration))

    def exact_steps(self, duration: Duration) -> float:
        """`duration` in steps, before rounding: two points of a recipe that differ may be one step of a short run."""
        return duration.value * {"ep": self.steps_per_epoch, "dur": self.total_steps, "step": 1}[duration.unit]

    def epoch(self, step: int) -> float:
        """The position in epochs before step number `step` (0-based)."""
        return step / self.steps_per_epoch
