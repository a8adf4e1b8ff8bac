"""What a sweep varies: axes, and how a point on them becomes overrides of a recipe.

An axis is a recipe key with a range of numbers or a list of values, or a name of your own with labelled bundles of keys. A point
gives every active axis its number or the label of its choice; an axis with `when` is active where earlier axes have the labels it
names.
"""

import math
import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ConfigDict, Field, model_validator

from groundup.basis.seeding import seed_from
from groundup.basis.settings import Settings

if TYPE_CHECKING:
    from optuna.trial import Trial

Label = str | int | float | bool | None
Point = dict[str, Any]  # axis -> number or label
_FIELDS = ("low", "high", "log", "int", "choice", "when")


class Axis(Settings):
    """One thing that is varied: a range (`low`, `high`) or a choice. A list alone, or a mapping of labels to keys, is a choice."""

    model_config = ConfigDict(populate_by_name=True)

    low: float | None = Field(None, description="Lower end of a range, included; in the unit of the recipe key.")
    high: float | None = Field(None, description="Upper end of a range, included; in the unit of the recipe key.")
    log: bool = Field(False, description="Draw the logarithm evenly; needs low above 0.")
    whole: bool = Field(False, alias="int", description="Whole numbers only.")
    choice: tuple[Any, ...] | dict[str, dict[str, Any]] | None = Field(
        None, description="Values of the key; or labels, each with the recipe keys and values that it stands for."
    )
    when: dict[str, Any] = Field(
        default_factory=dict,
        description="The axis is active only where earlier axes have these labels: one label or a list of them each.",
    )

    @model_validator(mode="before")
    @classmethod
    def _written_short(cls, values: Any) -> Any:
        if isinstance(values, list | tuple):
            return {"choice": values}
        if isinstance(values, Mapping) and values and not any(key in values for key in (*_FIELDS, "whole")):
            return {"choice": values}
        return values

    @model_validator(mode="after")
    def _one_of_both(self) -> "Axis":
        if (self.choice is None) == (self.low is None and self.high is None):
            raise ValueError("an axis is either a range (low, high) or a choice (a list, or labels with keys)")
        if self.choice is not None:
            if not self.choice:
                raise ValueError("a choice needs at least one value")
            if len({repr(label) for label, _ in self.options("")}) < len(self.choice):
                raise ValueError("a value stands twice in the choice")
            if self.log or self.whole:
                raise ValueError("log and int belong to a range, not to a choice")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"a range needs low below high, got low={self.low} high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs low above 0, got {self.low:g}")
        if self.whole and (self.low != int(self.low) or self.high != int(self.high)):
            raise ValueError(f"int needs whole ends, got low={self.low:g} high={self.high:g}")
        return self

    def options(self, key: str) -> list[tuple[Label, dict[str, Any]]]:
        """Every label of the choice with the recipe keys that it sets. A value that is no scalar is labelled by its YAML."""
        if isinstance(self.choice, dict):
            return list(self.choice.items())
        return [(label_of(value), {key: value}) for value in self.choice or ()]

    def settings(self, key: str, chosen: Any) -> dict[str, Any]:
        """The recipe keys and values for a number or a label of this axis."""
        if self.choice is None:
            return {key: chosen}
        return next(settings for label, settings in self.options(key) if _same(label, chosen))

    def is_active(self, point: Point) -> bool:
        """Whether the axes that `when` names have those labels at `point`."""
        return fits(self.when, point)

    def draw(self, key: str, *seed: int | str) -> Any:
        """A value as a pure function of `seed`: numbers with 6 significant digits, so that they can be written down."""
        generator = random.Random(seed_from(*seed, key))
        if self.choice is not None:
            return generator.choice(self.options(key))[0]
        assert self.low is not None
        assert self.high is not None
        if self.whole and not self.log:
            return generator.randint(int(self.low), int(self.high))
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        number = low + (high - low) * generator.random()
        number = min(self.high, max(self.low, math.exp(number) if self.log else number))
        return round(number) if self.whole else min(self.high, max(self.low, float(f"{number:.6g}")))

    def suggest(self, trial: "Trial", key: str) -> Any:
        """What Optuna proposes."""
        if self.choice is not None:
            return trial.suggest_categorical(key, [label for label, _ in self.options(key)])
        assert self.low is not None
        assert self.high is not None
        if self.whole:
            return trial.suggest_int(key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)


def label_of(value: Any) -> Label:
    """A scalar itself; of a list or mapping its YAML in one line."""
    return value if value is None or isinstance(value, str | int | float | bool) else written(value)


def written(value: Any) -> str:
    """`value` as YAML in one line, read back as the same value."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False).removesuffix("\n...\n").strip()
    )


def fits(when: Mapping[str, Any], point: Point) -> bool:
    """Whether `point` has a label that `when` allows on every axis that it names."""
    return all(
        axis in point and any(_same(label_of(allowed), point[axis]) for allowed in _listed(labels))
        for axis, labels in when.items()
    )


def grid_points(axes: Mapping[str, Axis]) -> list[Point]:
    """Every combination, the last axis fastest. An inactive axis does not multiply."""
    points: list[Point] = [{}]
    for key, axis in axes.items():
        points = [after for point in points for after in _continued(point, key, axis)]
    return points


def random_points(axes: Mapping[str, Axis], count: int, seed: int) -> list[Point]:
    """`count` points; point i is a pure function of (seed, i)."""
    points = []
    for index in range(count):
        point: Point = {}
        for key, axis in axes.items():
            if axis.is_active(point):
                point[key] = axis.draw(key, seed, "random", index)
        points.append(point)
    return points


def _continued(point: Point, key: str, axis: Axis) -> Iterator[Point]:
    if not axis.is_active(point):
        yield point
        return
    for label, _ in axis.options(key):
        yield {**point, key: label}


def _listed(labels: Any) -> list[Any]:
    return list(labels) if isinstance(labels, list | tuple) else [labels]


def _same(label: Any, chosen: Any) -> bool:
    """Equal, and not 1 for true."""
    return bool(label == chosen) and isinstance(label, bool) == isinstance(chosen, bool)
