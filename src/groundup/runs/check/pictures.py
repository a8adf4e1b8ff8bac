"""The pictures of a check: what changes over the run, and how many images each class has. PNG files, one panel each, so that they
stand side by side on a wide screen and below each other on a phone."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from groundup.basis.duration import Clock
from groundup.basis.pictures import GREY, PALETTE, new_figure, save_figure
from groundup.runs.prepare import Plan
from groundup.training import LiveValues, NoAverage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 600  # steps that a curve is drawn through, at most
_WIDTH, _HEIGHT = 5.2, 3.0  # inches
_MOST_NAMED = 24  # classes above which the bars have no names


def setting_curves(plan: Plan) -> dict[str, tuple[list[int], list[float]]]:
    """Over the steps: the learning rate, the momentum if the schedule sets it, and every live setting that changes.

    Title -> (steps, values). The rate of a schedule that follows a metric is what it is as long as the metric gets better.
    """
    clock, memory = plan.clock, plan.rates.memory()
    changes = [first for first, _ in plan.live.changes]
    starts = [part.first for part in plan.rates.parts]
    even = range(0, clock.total_steps, max(1, clock.total_steps // _POINTS))
    around = {max(0, first + offset) for first in (*changes, *starts) for offset in (-1, 0)}
    steps = sorted({*even, *around, clock.total_steps - 1})
    rates = [plan.rates.at(step, memory) for step in steps]
    curves: dict[str, list[float]] = {"learning rate": [rate.lr for rate in rates]}
    if any(rate.momentum is not None for rate in rates):
        curves["momentum"] = [float("nan") if rate.momentum is None else rate.momentum for rate in rates]
    live = [plan.live.at(step) for step in steps]
    settings = {
        "input size (px)": [float(values.resolution) for values in live],
        "label smoothing": [values.label_smoothing for values in live],
        "dropout": [0.0 if values.dropout is None else values.dropout for values in live],
        "share of mixed images": [1 - values.mix.clean if values.mix.methods else 0.0 for values in live],
        "operations of the policy": [float(len(values.policy)) for values in live],
    }
    curves |= {name: values for name, values in settings.items() if len(set(values)) > 1}
    curves |= _strengths(live)
    return {name: (steps, values) for name, values in curves.items()}


def _strengths(live: Sequence[LiveValues]) -> dict[str, list[float]]:
    """The probability of every operation and the alpha of every way of mixing that change over `live`; nan while not there."""
    at_each = [
        {f"p of {operation.name}": float(getattr(operation, "p", 1.0)) for operation in reversed(values.policy)}
        | {f"alpha of {method.name}": float(method.alpha) for method in values.mix.methods}
        for values in live
    ]
    names = dict.fromkeys(name for now in at_each for name in now)
    changing = [name for name in names if len({now[name] for now in at_each if name in now}) > 1]
    return {name: [now.get(name, math.nan) for now in at_each] for name in changing}


def draw_settings(plan: Plan, folder: Path) -> dict[str, Path]:
    """A picture per curve, over steps and epochs. Title -> file in `folder`."""
    marks = _marks(plan)
    drawn = {}
    for number, (title, (steps, values)) in enumerate(setting_curves(plan).items()):
        figure = new_figure(_WIDTH, _HEIGHT)
        axes = figure.add_subplot()
        stepped = title not in ("learning rate", "momentum")
        axes.plot(steps, values, color=PALETTE["blue"], linewidth=1.8, drawstyle="steps-post" if stepped else "default")
        for step, what in marks:
            axes.axvline(step, color=PALETTE["orange"], linewidth=1.1, linestyle="--", zorder=1)
            axes.annotate(
                what, (step, 1), xycoords=("data", "axes fraction"), xytext=(3, -3), textcoords="offset points",
                va="top", fontsize=8, color=GREY,
            )  # fmt: skip
        _dress(axes, title, plan.clock)
        drawn[title] = folder / f"setting-{number}.png"
        save_figure(figure, drawn[title])
    return drawn


def _marks(plan: Plan) -> list[tuple[int, str]]:
    """Where something begins, with what it is called."""
    found = [(first, "phase") for first in sorted({first for first, _ in plan.live.changes}) if first]
    average = plan.recipe.average
    if not isinstance(average, NoAverage) and (first := average.first_sample(plan.clock)):
        found.append((first, f"{average.name} begins"))
    return found


def _dress(axes: "Axes", title: str, clock: Clock) -> None:
    axes.set_title(title, fontsize=11, loc="left", color=PALETTE["black"])
    axes.set_xlabel("step", fontsize=9, color=GREY)
    axes.set_xlim(0, clock.total_steps)
    low, high = axes.get_ylim()
    axes.set_ylim(bottom=0 if low > 0 and title != "momentum" else low, top=high)

    def to_epoch(step: Any) -> Any:
        return step / clock.steps_per_epoch

    def to_step(epoch: Any) -> Any:
        return epoch * clock.steps_per_epoch

    epochs = axes.secondary_xaxis("top", functions=(to_epoch, to_step))
    epochs.set_xlabel("epoch", fontsize=9, color=GREY, loc="right")
    epochs.tick_params(labelsize=8.5, colors=GREY, length=3)
    epochs.spines["top"].set_color("#BBBBBB")
    axes.tick_params(labelsize=8.5, colors=GREY, length=3)
    axes.grid(True, axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#BBBBBB")


def draw_balance(labels: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Bars of the training images of each class, the largest class first. labels: int64 (N,)."""
    counts = np.bincount(labels, minlength=len(classes))
    order = np.argsort(-counts, kind="stable")
    named = len(classes) <= _MOST_NAMED
    figure = new_figure(_WIDTH, 3.4 if named else _HEIGHT)
    axes = figure.add_subplot()
    axes.bar(range(len(classes)), counts[order], width=0.8 if named else 1.0, color=PALETTE["sky"])
    axes.set_title("training images per class", fontsize=11, loc="left", color=PALETTE["black"])
    axes.set_xlim(-0.6, len(classes) - 0.4)
    if named:
        names = [classes[place][:14] for place in order]
        axes.set_xticks(range(len(classes)), names, rotation=90, fontsize=8.5, parse_math=False)
    else:
        axes.set_xlabel("classes, the largest first", fontsize=9, color=GREY)
    axes.tick_params(labelsize=8.5, colors=GREY, length=0)
    axes.grid(True, axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color("#BBBBBB")
    save_figure(figure, path)
