"""Pictures of an evaluation as PNG files: the reliability diagram.

In the style of `pictures`: no window, no pyplot, its colours. Fractions come in and are shown in percent. What is drawn comes
as objects with the fields named here, such as `evaluation.Calibration`; this room knows no other.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from groundup.basis.pictures import GREY, PALETTE, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("orange", "blue", "green", "purple", "vermilion")


class ReliabilityBin(Protocol):
    """Images of like confidence, between `low` and `high`; `interval` is of the accuracy."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def confidence(self) -> float: ...
    @property
    def accuracy(self) -> float: ...
    @property
    def count(self) -> int: ...
    @property
    def interval(self) -> tuple[float, float]: ...


class Reliability(Protocol):
    """One curve of the diagram: points from equal-mass bins, the spread of confidences from equal-width bins."""

    @property
    def bins(self) -> Sequence[ReliabilityBin]: ...
    @property
    def bins_equal_width(self) -> Sequence[ReliabilityBin]: ...
    @property
    def ece_equal_mass(self) -> float: ...


def reliability_picture(curves: Mapping[str, Reliability], path: Path, title: str = "") -> None:
    """Accuracy over confidence with 95% whiskers, under it how the images spread over confidences; a name per curve.

    On the diagonal a network is as right as it is sure; below it, over-confident. Up to five curves, such as "as trained"
    and "temperature 1.43".
    """
    if not 1 <= len(curves) <= len(_COLOURS):
        raise ValueError(f"a reliability diagram has 1 to {len(_COLOURS)} curves, got {len(curves)}")
    figure = new_figure(5.4, 6.4)
    figure.suptitle(title, fontsize=12, color=PALETTE["black"], parse_math=False)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
    upper.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle="--", zorder=1, label="as right as sure")
    for colour, (name, curve) in zip(_COLOURS, curves.items(), strict=False):
        _reliability_curve(upper, curve.bins, PALETTE[colour], f"{name}: ECE {curve.ece_equal_mass:.1%}")
        _spread(lower, curve.bins_equal_width, PALETTE[colour])
    for axes, label in ((upper, "accuracy (%)"), (lower, "images (%)")):
        _dress(axes, label)
    upper.set_ylim(0, 100)
    lower.set_xlim(0, 100)
    lower.set_ylim(bottom=0)
    lower.set_xlabel("confidence (%)", fontsize=10, color=GREY)
    upper.legend(frameon=False, fontsize=9, loc="upper left")
    save_figure(figure, path)


def _reliability_curve(axes: "Axes", bins: Sequence[ReliabilityBin], colour: str, label: str) -> None:
    confidence, accuracy = [100 * entry.confidence for entry in bins], [100 * entry.accuracy for entry in bins]
    below = [100 * max(0.0, entry.accuracy - entry.interval[0]) for entry in bins]
    above = [100 * max(0.0, entry.interval[1] - entry.accuracy) for entry in bins]
    axes.errorbar(
        confidence,
        accuracy,
        yerr=[below, above],
        color=colour,
        linewidth=1.8,
        elinewidth=1,
        capsize=2,
        marker="o",
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        label=label,
        clip_on=False,
    )


def _spread(axes: "Axes", bins: Sequence[ReliabilityBin], colour: str) -> None:
    """A step outline, so that several curves stay readable over each other."""
    images = sum(entry.count for entry in bins)
    x, y = [], []
    for entry in bins:
        share = 100 * entry.count / images
        x += [100 * entry.low, 100 * entry.low, 100 * entry.high, 100 * entry.high]
        y += [0.0, share, share, 0.0]
    axes.fill(x, y, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, y, color=colour, linewidth=1.4)


def _dress(axes: "Axes", label: str) -> None:
    axes.set_ylabel(label, fontsize=10, color=GREY)
    axes.tick_params(labelsize=8.5, colors=GREY, length=3)
    axes.grid(True, color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#BBBBBB")
